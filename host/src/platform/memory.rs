//! UNSAFE: memory that was needed once, and is not any more, goes back to the system.
#![expect(unsafe_code, reason = "functions of the C library")]

use std::io::BufRead;
use std::ops::Range;

/// Gives free memory inside the heap back: the allocator keeps it otherwise, for as long as something behind it is in use.
/// Takes about a millisecond for each 10 MB that go.
pub fn give_back() {
    #[cfg(all(target_os = "linux", target_env = "gnu"))]
    {
        unsafe extern "C" {
            fn malloc_trim(pad: usize) -> std::ffi::c_int;
        }
        // SAFETY: takes no pointer, may be called at any time on any thread, and touches only memory that is free.
        unsafe { malloc_trim(0) };
    }
}

/// Takes the program's machine code out of its resident memory. What runs again comes back at once, out of the system's cache
/// of files; what only the start needed (arguments, settings, the making of tables) does not.
///
/// The system maps 16 pages around each one that is touched, so that a start leaves nearly all of the code resident. Costs
/// about 0.1 ms, and as much again until all that requests need is back.
pub fn let_code_go() {
    #[cfg(target_os = "linux")]
    {
        use std::ffi::{c_int, c_void};
        use std::fs::File;
        use std::io::BufReader;

        const MADV_DONTNEED: c_int = 4;
        unsafe extern "C" {
            fn madvise(address: *mut c_void, length: usize, advice: c_int) -> c_int;
        }
        let here = let_code_go as *const () as usize;
        let Some(code) = File::open("/proc/self/smaps")
            .ok()
            .and_then(|smaps| untouched_code(BufReader::new(smaps), here))
        else {
            return;
        };
        // SAFETY: the system says that it maps a file there, privately and not to be written, and that none of its pages
        // differs from the file: each can be read from there again, which is what happens at the next touch, on whatever
        // thread. That a running program's file stays as it is, the loader relies on as well.
        unsafe { madvise(code.start as *mut c_void, code.len(), MADV_DONTNEED) };
    }
}

/// Where the code is that holds an address, by what the system says of the process's memory; `None` where a page of it is not
/// as in its file: a debugger may have set a breakpoint.
fn untouched_code(smaps: impl BufRead, here: usize) -> Option<Range<usize>> {
    let mut lines = smaps.lines().map_while(Result::ok);
    let code = lines.find_map(|line| mapped(&line).filter(|code| code.contains(&here)))?;
    let changed =
        lines.find_map(|line| Some(line.strip_prefix("Anonymous:")?.trim().to_owned()))?;
    (changed == "0 kB").then_some(code)
}

/// Reads "55d0c0de1000-55d0c0de9000 r-xp 00012000 fe:00 1234  /usr/bin/program"; `None` for a line that is not about code.
fn mapped(line: &str) -> Option<Range<usize>> {
    let mut words = line.split(' ');
    let (start, end) = words.next()?.split_once('-')?;
    let address = |text| usize::from_str_radix(text, 16).ok();
    let range = address(start)?..address(end)?;
    (words.next()? == "r-xp").then_some(range)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SMAPS: &str = "\
1000-2000 r--p 00000000 fe:00 1 /bin/program
Anonymous:             8 kB
2000-5000 r-xp 00001000 fe:00 1 /bin/program
Size:                 12 kB
Anonymous:             0 kB
VmFlags: rd ex mr mw me
5000-6000 r--p 00004000 fe:00 1 /bin/program
Anonymous:             4 kB
7000-8000 r-xp 00000000 fe:00 2 /lib/patched.so
Anonymous:             4 kB
";

    #[test]
    fn code_is_let_go_only_where_it_is_as_in_its_file() {
        let code = |here| untouched_code(SMAPS.as_bytes(), here);
        assert_eq!(code(0x2800), Some(0x2000..0x5000));
        assert_eq!(code(0x1800), None, "data, with relocations in it");
        assert_eq!(code(0x5800), None, "data");
        assert_eq!(code(0x7800), None, "changed");
        assert_eq!(code(0x9000), None, "nothing");
    }

    #[test]
    fn what_was_let_go_runs_again() {
        let_code_go();
        assert_eq!(format!("{:?}", mapped("10-20 r-xp")), "Some(16..32)");
    }
}
