//! A fixed number of things that one thread at a time may use.

use std::{
    ops::{Deref, DerefMut},
    sync::{Condvar, Mutex, MutexGuard, PoisonError},
};

/// Whoever takes one waits until there is one.
#[derive(Debug)]
pub(crate) struct Pool<T> {
    idle: Mutex<Vec<T>>,
    returned: Condvar,
    size: usize,
}

impl<T> Pool<T> {
    pub(crate) fn new(items: Vec<T>) -> Self {
        Self {
            size: items.len(),
            idle: Mutex::new(items),
            returned: Condvar::new(),
        }
    }

    /// How many there are, in use or not.
    pub(crate) fn size(&self) -> usize {
        self.size
    }

    /// Waits for one.
    pub(crate) fn take(&self) -> Taken<'_, T> {
        let mut idle = self.lock();
        loop {
            if let Some(item) = idle.pop() {
                return Taken {
                    pool: self,
                    item: Some(item),
                };
            }
            idle = self
                .returned
                .wait(idle)
                .unwrap_or_else(PoisonError::into_inner);
        }
    }

    /// A thread that panicked held no half-done list: items are pushed and popped whole.
    fn lock(&self) -> MutexGuard<'_, Vec<T>> {
        self.idle.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Goes back to its pool when dropped.
pub(crate) struct Taken<'a, T> {
    pool: &'a Pool<T>,
    item: Option<T>,
}

impl<T> Deref for Taken<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        self.item.as_ref().expect("it is there until it is dropped")
    }
}

impl<T> DerefMut for Taken<'_, T> {
    fn deref_mut(&mut self) -> &mut T {
        self.item.as_mut().expect("it is there until it is dropped")
    }
}

impl<T> Drop for Taken<'_, T> {
    fn drop(&mut self) {
        self.pool.lock().extend(self.item.take());
        self.pool.returned.notify_one();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::{
        panic::{AssertUnwindSafe, catch_unwind},
        sync::atomic::{AtomicUsize, Ordering},
        thread,
    };

    #[test]
    fn no_more_are_in_use_than_there_are() {
        let pool = Pool::new(vec![(), ()]);
        let (in_use, most) = (AtomicUsize::new(0), AtomicUsize::new(0));
        thread::scope(|scope| {
            for _ in 0..8 {
                scope.spawn(|| {
                    for _ in 0..200 {
                        let _taken = pool.take();
                        most.fetch_max(in_use.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
                        thread::yield_now();
                        in_use.fetch_sub(1, Ordering::SeqCst);
                    }
                });
            }
        });
        assert_eq!(most.load(Ordering::SeqCst), pool.size());
    }

    #[test]
    fn what_a_panicking_thread_held_comes_back() {
        let pool = Pool::new(vec![7]);
        let panicked = catch_unwind(AssertUnwindSafe(|| {
            let _taken = pool.take();
            panic!("while it was in use");
        }));
        assert!(panicked.is_err());
        assert_eq!(*pool.take(), 7);
    }
}
