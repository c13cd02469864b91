//! Links the library so that the process keeps it.

fn main() {
    // NVML's users load and unload the library as they like. What it has heeded of the control file must outlast that, or
    // each reload would heed it again.
    println!("cargo::rustc-cdylib-link-arg=-Wl,-z,nodelete");
    println!("cargo::rerun-if-changed=build.rs");
}
