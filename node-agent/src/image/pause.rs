//! The pause image: the process that holds a pod's namespaces open.
//!
//! Its program is a few dozen instructions that this module writes itself, so that no registry, no
//! compiler and no foreign binary is needed. It blocks SIGINT, SIGTERM and SIGCHLD, then waits for
//! them: the first two end it, the third makes it collect every process that ended, as the first
//! process of a shared pid namespace must.

use coxswain_oci::Image;

/// Full name of the image in containerd.
pub const NAME: &str = "coxswain.local/pause:1";

/// The image as an archive; an error sentence on machines it has no program for.
pub fn archive() -> Result<Vec<u8>, String> {
    let program = program(std::env::consts::ARCH)
        .ok_or_else(|| format!("no pause program for the {} architecture", std::env::consts::ARCH))?;
    Image::of_binary(NAME, "pause", program)
        .to_archive()
        .map_err(|error| error.to_string())
}

fn program(arch: &str) -> Option<Vec<u8>> {
    match arch {
        "x86_64" => Some(elf(0x3e, &x86_64())),
        "aarch64" => Some(elf(0xb7, &aarch64())),
        _ => None,
    }
}

/// SIGINT, SIGTERM and SIGCHLD as a kernel signal set.
const SIGNALS: u64 = 1 << 1 | 1 << 14 | 1 << 16;

/// A static 64-bit program: one loaded segment that holds the headers and the code.
fn elf(machine: u16, code: &[u8]) -> Vec<u8> {
    const BASE: u64 = 0x40_0000;
    const HEADERS: u64 = 64 + 56;
    let size = HEADERS + code.len() as u64;
    let mut out = vec![0x7f, b'E', b'L', b'F', 2, 1, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0];
    out.extend(2u16.to_le_bytes());
    out.extend(machine.to_le_bytes());
    out.extend(1u32.to_le_bytes());
    out.extend((BASE + HEADERS).to_le_bytes());
    out.extend(64u64.to_le_bytes());
    out.extend(0u64.to_le_bytes());
    out.extend(0u32.to_le_bytes());
    for half in [64u16, 56, 1, 0, 0, 0] {
        out.extend(half.to_le_bytes());
    }
    out.extend(1u32.to_le_bytes());
    out.extend(5u32.to_le_bytes());
    for word in [0, BASE, BASE, size, size, 0x1_0000] {
        out.extend(u64::to_le_bytes(word));
    }
    out.extend_from_slice(code);
    out
}

fn x86_64() -> Vec<u8> {
    let mut code: Vec<u8> = vec![
        0x48, 0x8d, 0x35, 0, 0, 0, 0, // lea rsi, [signals]
        0x31, 0xff, // xor edi, edi: SIG_BLOCK
        0x31, 0xd2, // xor edx, edx
        0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
        0xb8, 14, 0, 0, 0, // mov eax, rt_sigprocmask
        0x0f, 0x05, // syscall
    ];
    let block_mask = 3;
    let wait = code.len();
    code.extend([
        0x48,
        0x8d,
        0x3d,
        0,
        0,
        0,
        0, // lea rdi, [signals]
        0x31,
        0xf6, // xor esi, esi
        0x31,
        0xd2, // xor edx, edx
        0x41,
        0xba,
        8,
        0,
        0,
        0, // mov r10d, 8
        0xb8,
        128,
        0,
        0,
        0, // mov eax, rt_sigtimedwait
        0x0f,
        0x05, // syscall
        0x83,
        0xf8,
        15, // cmp eax, SIGTERM
        0x74,
        28 + 5, // je end
        0x83,
        0xf8,
        2, // cmp eax, SIGINT
        0x74,
        28, // je end
    ]);
    let wait_mask = wait + 3;
    let reap = code.len();
    code.extend([
        0x48, 0xc7, 0xc7, 0xff, 0xff, 0xff, 0xff, // mov rdi, -1
        0x31, 0xf6, // xor esi, esi
        0xba, 1, 0, 0, 0, // mov edx, WNOHANG
        0x45, 0x31, 0xd2, // xor r10d, r10d
        0xb8, 61, 0, 0, 0, // mov eax, wait4
        0x0f, 0x05, // syscall
        0x85, 0xc0, // test eax, eax
    ]);
    let back = |from: usize, to: usize| (to as i64 - (from as i64 + 2)) as u8;
    code.extend([0x7f, back(code.len(), reap)]); // jg reap
    code.extend([0xeb, back(code.len(), wait)]); // jmp wait
    let end = code.len();
    // Both conditional jumps above must land here.
    code[wait + 28] = (end - (wait + 29)) as u8;
    code[wait + 33] = (end - (wait + 34)) as u8;
    code.extend([0x31, 0xff, 0xb8, 60, 0, 0, 0, 0x0f, 0x05]); // exit(0)
    let signals = code.len();
    for at in [block_mask, wait_mask] {
        let offset = (signals - (at + 4)) as u32;
        code[at..at + 4].copy_from_slice(&offset.to_le_bytes());
    }
    code.extend(SIGNALS.to_le_bytes());
    code
}

fn aarch64() -> Vec<u8> {
    let set = |register: u32, value: u32| 0xd280_0000 | value << 5 | register;
    let compare = |value: u32| 0x7100_001f | value << 10;
    let address = |register: u32, words: u32| 0x1000_0000 | words << 5 | register;
    let branch_if = |condition: u32, words: i32| 0x5400_0000 | ((words as u32) & 0x7_ffff) << 5 | condition;
    let branch = |words: i32| 0x1400_0000 | ((words as u32) & 0x3ff_ffff);
    const CALL: u32 = 0xd400_0001;
    const EQUAL: u32 = 0;
    const GREATER: u32 = 12;
    const MINUS_ONE_IN_X0: u32 = 0x9280_0000;
    let signals = 28;
    let words = [
        address(1, signals),
        set(0, 0),
        set(2, 0),
        set(3, 8),
        set(8, 135), // rt_sigprocmask
        CALL,
        address(0, signals - 6), // 6: wait
        set(1, 0),
        set(2, 0),
        set(3, 8),
        set(8, 137), // rt_sigtimedwait
        CALL,
        compare(15),
        branch_if(EQUAL, 25 - 13),
        compare(2),
        branch_if(EQUAL, 25 - 15),
        MINUS_ONE_IN_X0, // 16: reap
        set(1, 0),
        set(2, 1),
        set(3, 0),
        set(8, 260), // wait4
        CALL,
        compare(0),
        branch_if(GREATER, 16 - 23),
        branch(6 - 24),
        set(0, 0), // 25: end
        set(8, 93),
        CALL,
    ];
    let mut code: Vec<u8> = words.iter().flat_map(|word| word.to_le_bytes()).collect();
    code.extend(SIGNALS.to_le_bytes());
    code
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::process::ExitStatusExt;
    use std::time::Duration;

    #[test]
    fn the_program_waits_and_ends_on_a_signal() -> Result<(), Box<dyn std::error::Error>> {
        use std::os::unix::fs::PermissionsExt;
        let dir = tempfile::tempdir()?;
        let path = dir.path().join("pause");
        std::fs::write(&path, program(std::env::consts::ARCH).ok_or("architecture")?)?;
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
        for signal in [nix::sys::signal::SIGTERM, nix::sys::signal::SIGINT] {
            let mut child = std::process::Command::new(&path).spawn()?;
            std::thread::sleep(Duration::from_millis(20));
            assert!(child.try_wait()?.is_none(), "ended by itself");
            let pid = nix::unistd::Pid::from_raw(child.id() as i32);
            nix::sys::signal::kill(pid, nix::sys::signal::SIGCHLD)?;
            nix::sys::signal::kill(pid, signal)?;
            let status = child.wait()?;
            assert_eq!((status.code(), status.signal()), (Some(0), None));
        }
        Ok(())
    }
}
