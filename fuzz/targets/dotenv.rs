#![no_main]
libfuzzer_sys::fuzz_target!(|bytes: &[u8]| extension_host_fuzz::dotenv(bytes));
