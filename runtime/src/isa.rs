/// The CPU's instruction-set class, as far as ONNX Runtime's kernels tell CPUs apart: `x86_64-avx512-vnni`,
/// `x86_64-avx512f`, `x86_64-avx2`, `x86_64`, `aarch64-neon`, or the name of another architecture. Classes may differ in
/// the last bits of a logit.
pub fn cpu_isa() -> String {
    format!("{}{}", std::env::consts::ARCH, extensions())
}

#[cfg(target_arch = "x86_64")]
fn extensions() -> &'static str {
    if is_x86_feature_detected!("avx512vnni") && is_x86_feature_detected!("avx512f") {
        "-avx512-vnni"
    } else if is_x86_feature_detected!("avx512f") {
        "-avx512f"
    } else if is_x86_feature_detected!("avx2") && is_x86_feature_detected!("fma") {
        "-avx2"
    } else {
        ""
    }
}

#[cfg(target_arch = "aarch64")]
fn extensions() -> &'static str {
    "-neon"
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
fn extensions() -> &'static str {
    ""
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_class_names_the_architecture() {
        assert!(super::cpu_isa().starts_with(std::env::consts::ARCH));
    }
}
