//! Compiles the kernels for NVIDIA GPUs, where the feature `cuda` is on.

#[cfg(feature = "cuda")]
fn main() -> cudaforge::Result<()> {
    println!("cargo::rerun-if-changed=kernels");
    let out = std::path::PathBuf::from(std::env::var("OUT_DIR").unwrap_or_default());
    let kernels = cudaforge::KernelBuilder::new().source_dir("kernels").watch(["kernels"]).arg("-std=c++17").arg("-O3");
    kernels.build_ptx()?.write(out.join("kernels.rs"))?;
    Ok(())
}

#[cfg(not(feature = "cuda"))]
fn main() {
    println!("cargo::rerun-if-changed=kernels");
}
