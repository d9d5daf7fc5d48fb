//! Extended self-supervised training of a backbone on images like those at hand, without labels: ExPLoRA (Khanna, Irgau,
//! Lobell, Ermon: ExPLoRA: Parameter-Efficient Extended Pre-training to Adapt Vision Transformers under Domain Shifts, ICML
//! 2025) with the objective of DINOv2 (Oquab et al.: DINOv2: Learning Robust Visual Features without Supervision, 2023).
//!
//! A few blocks are trained whole, q and v of the others by LoRA, and all norms. A student that sees parts of a picture, some
//! of their patches hidden, learns to answer as a teacher that sees the large parts; the teacher is the student's moving
//! average, and is what is kept: adapters merged, a plain backbone ([`stage1_core::pretrained`]). Prototypes, heads and mask
//! token are thrown away.

mod course;
mod guard;
mod head;
mod job;
mod layout;
mod loss;
mod mask;
mod objective;
mod run;
#[cfg(test)]
mod tests;
mod views;

pub(crate) use job::{plan, prepare};
pub(crate) use layout::Layout;
pub(crate) use run::steps;
