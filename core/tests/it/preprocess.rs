//! Preprocessing against what Pillow, torchvision and Hugging Face compute, and against hostile input.

mod formats;
mod goldens;
mod hostile;
mod pillow;
mod scaled;
mod sizes;
