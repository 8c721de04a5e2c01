//! Compiles the agent's own gRPC definitions with a compiler written in Rust, so that no `protoc` is
//! needed on the machine that builds.

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let files = [
        "cri.proto",
        "containerd_events.proto",
        "containerd_tasks.proto",
        "containerd_containers.proto",
        "containerd_snapshots.proto",
    ];
    for file in files {
        println!("cargo:rerun-if-changed=proto/{file}");
        let descriptors = protox::compile([file], ["proto"])?;
        tonic_prost_build::configure()
            .build_server(false)
            .compile_fds(descriptors)?;
    }
    Ok(())
}
