//! The one place where unsafe code is right: what neither `ort` nor the standard library has a safe wrapper for.
#![expect(
    unsafe_code,
    reason = "asking a library for its version before `ort` loads it, asking a session where its nodes run, and telling the \
              allocator how to treat a model's weights"
)]

use ort::AsPointer;
use std::{
    ffi::{CStr, c_char, c_int},
    path::Path,
    ptr,
};

type GetApiBase = unsafe extern "C" fn() -> *const ort::sys::OrtApiBase;

/// The version of the ONNX Runtime in a library, e.g. `1.31.1`, or why there is none.
///
/// `ort` can't be asked: after one failure to load, its next call works on uninitialised memory.
pub(crate) fn library_version(path: &Path) -> Result<String, String> {
    // SAFETY: loading runs the library's initialisers. The path comes from the user, the installation or the system's
    // search order, and is about to be loaded as ONNX Runtime anyway: running it is what was asked for.
    let library = unsafe { libloading::Library::new(path) }.map_err(|error| error.to_string())?;
    // SAFETY: `OrtGetApiBase` has had this signature in every ONNX Runtime; it takes nothing and returns a static table.
    let symbol = unsafe { library.get::<GetApiBase>(b"OrtGetApiBase\0") };
    let get_api_base = *symbol.map_err(|_| "it doesn't export `OrtGetApiBase`".to_owned())?;
    // A library with threads and thread-locals isn't safely unloaded: it stays, and `ort` gets the same one.
    std::mem::forget(library);
    // SAFETY: the call has no preconditions, and the library stays loaded.
    let base = unsafe { get_api_base().as_ref() }.ok_or("`OrtGetApiBase` returned nothing")?;
    // SAFETY: the function lies in the static table and returns a static, NUL-terminated string.
    let version = unsafe { CStr::from_ptr((base.GetVersionString)()) };
    Ok(version.to_string_lossy().into_owned())
}

/// Makes glibc serve blocks of up to 32 MiB from memory that was freed before.
///
/// ONNX Runtime copies a model's weights three times while it opens it, and a decoder takes the same megabytes for each image.
/// By default each such block is mapped anew, and a page at a time costs more than the copy.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn reuse_freed_memory() {
    set(M_MMAP_THRESHOLD, 32 << 20);
    set(M_TRIM_THRESHOLD, 32 << 20);
}

/// Gives the system back what was freed, which [`reuse_freed_memory`] made glibc keep, and lets it keep less from now on:
/// about an image of two megapixels in each thread.
#[cfg(all(target_os = "linux", target_env = "gnu"))]
pub(crate) fn return_freed_memory() {
    unsafe extern "C" {
        fn malloc_trim(keep: usize) -> c_int;
    }
    set(M_TRIM_THRESHOLD, 8 << 20);
    // SAFETY: glibc's own function; it takes its locks, and touches only what is free.
    unsafe { malloc_trim(0) };
}

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const M_TRIM_THRESHOLD: c_int = -1;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
const M_MMAP_THRESHOLD: c_int = -3;

#[cfg(all(target_os = "linux", target_env = "gnu"))]
fn set(parameter: c_int, value: c_int) {
    unsafe extern "C" {
        fn mallopt(parameter: c_int, value: c_int) -> c_int;
    }
    // SAFETY: glibc's own function; it takes its locks, and refuses what it doesn't know.
    unsafe { mallopt(parameter, value) };
}

/// Other allocators do as they do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn reuse_freed_memory() {}

/// Other allocators do as they do.
#[cfg(not(all(target_os = "linux", target_env = "gnu")))]
pub(crate) fn return_freed_memory() {}

/// A graph node that a provider executes.
pub(crate) struct Placed {
    /// The provider's name.
    pub(crate) provider: String,
    /// The type of operator, e.g. `MatMul`.
    pub(crate) operator: String,
}

/// Where each graph node runs. The session must have been built with `session.record_ep_graph_assignment_info=1`.
pub(crate) fn placement(session: &ort::session::Session) -> ort::Result<Vec<Placed>> {
    let api = ort::api();
    let (mut subgraphs, mut count) = (ptr::null(), 0);
    // SAFETY: the session is alive and both out-pointers are valid for writes.
    let status = unsafe {
        (api.Session_GetEpGraphAssignmentInfo)(session.ptr(), &mut subgraphs, &mut count)
    };
    // SAFETY: the status comes from this API and is consumed once.
    unsafe { ort::Error::result_from_status(status) }?;
    let mut placed = Vec::new();
    for i in 0..count {
        // SAFETY: the call above returned an array of `count` pointers, which the session owns.
        let subgraph = unsafe { *subgraphs.add(i) };
        let mut name: *const c_char = ptr::null();
        // SAFETY: `subgraph` is valid while the session lives, and the out-pointer is valid.
        let status = unsafe { (api.EpAssignedSubgraph_GetEpName)(subgraph, &mut name) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        // SAFETY: on success the name is a NUL-terminated string that the session owns.
        let provider = unsafe { owned(name) };
        let (mut nodes, mut node_count) = (ptr::null(), 0);
        // SAFETY: as above.
        let status =
            unsafe { (api.EpAssignedSubgraph_GetNodes)(subgraph, &mut nodes, &mut node_count) };
        // SAFETY: as above.
        unsafe { ort::Error::result_from_status(status) }?;
        for j in 0..node_count {
            // SAFETY: the call above returned an array of `node_count` pointers, which the session owns.
            let node = unsafe { *nodes.add(j) };
            let mut operator: *const c_char = ptr::null();
            // SAFETY: `node` is valid while the session lives, and the out-pointer is valid.
            let status = unsafe { (api.EpAssignedNode_GetOperatorType)(node, &mut operator) };
            // SAFETY: as above.
            unsafe { ort::Error::result_from_status(status) }?;
            placed.push(Placed {
                provider: provider.clone(),
                // SAFETY: on success it is a NUL-terminated string that the session owns.
                operator: unsafe { owned(operator) },
            });
        }
    }
    Ok(placed)
}

/// # Safety
/// `text` is a NUL-terminated string that is alive.
unsafe fn owned(text: *const c_char) -> String {
    // SAFETY: as the caller promises.
    unsafe { CStr::from_ptr(text) }
        .to_string_lossy()
        .into_owned()
}

/// Why the system can't load a library; none if it can.
pub(crate) fn why_not_loaded(library: &Path) -> Option<String> {
    // SAFETY: loading runs the library's initialisers. It is a part of the ONNX Runtime that is loaded, which has just tried
    // the same.
    let loaded = unsafe { libloading::Library::new(library) };
    match loaded {
        Err(error) => Some(error.to_string()),
        // As with ONNX Runtime itself: it isn't safely unloaded.
        Ok(library) => {
            std::mem::forget(library);
            None
        }
    }
}

/// The version of the TensorRT that a provider for its version 10 loads, e.g. 101300; none without it.
pub(crate) fn tensorrt_version() -> Option<i32> {
    // SAFETY: loading runs the library's initialisers; the provider is about to load the same.
    let library = unsafe { libloading::Library::new("libnvinfer.so.10") }.ok()?;
    type GetVersion = unsafe extern "C" fn() -> c_int;
    // SAFETY: `getInferLibVersion` has this signature in every TensorRT (NvInferRuntimeBase.h).
    let get_version = *unsafe { library.get::<GetVersion>(b"getInferLibVersion\0") }.ok()?;
    std::mem::forget(library);
    // SAFETY: the call has no preconditions, and the library stays loaded.
    Some(unsafe { get_version() })
}
