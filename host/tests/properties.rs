//! What holds of everything that reads foreign bytes: redaction lets no token through, every target stays on its base, an
//! unsigned token is never believed, and the rest of `fuzz/src/lib.rs`. Held here on the fuzzer's seeds, and on inputs of a
//! generator that makes the same ones each time; the fuzzer, `.ci/checks/fuzz`, goes on from there.

#[path = "../../fuzz/src/lib.rs"]
mod fuzz;

use std::fs;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;

/// How many inputs a property sees.
const INPUTS: u64 = 2_000;
/// The longest of them.
const BYTES_MAX: u64 = 200;

macro_rules! properties {
    ($($test:ident: $property:ident)*) => {
        $(#[test]
        fn $test() {
            hold(stringify!($property));
        })*

        #[test]
        fn every_property_has_its_test_here() {
            let here = [$(stringify!($property)),*];
            assert_eq!(fuzz::PROPERTIES.map(|(name, _)| name), here);
        }
    };
}

properties! {
    a_library_that_is_accepted_is_of_this_abi: gate
    a_dotenv_file_means_the_same_when_it_is_written_again: dotenv
    a_token_is_good_only_where_it_was_signed_with_the_secret: jwt
    a_manifest_allows_nothing_that_it_does_not_name: manifest
    redaction_never_lets_a_token_through: redaction
    every_target_stays_on_its_base: target
    forms_are_read_and_written_as_the_standard_says: form
    an_answer_means_the_same_however_it_arrives: answer
}

#[track_caller]
fn hold(name: &str) {
    let (_, property) = fuzz::PROPERTIES
        .into_iter()
        .find(|(of, _)| *of == name)
        .expect("a property");
    let folder = Path::new(env!("CARGO_MANIFEST_DIR"))
        .join("../fuzz/seeds")
        .join(name);
    let mut seeds: Vec<_> = fs::read_dir(&folder)
        .expect("seeds")
        .map(|seed| seed.expect("a seed").path())
        .collect();
    seeds.sort();
    assert!(!seeds.is_empty());
    let mut inputs: Vec<Vec<u8>> = seeds
        .iter()
        .map(|seed| fs::read(seed).expect("a seed"))
        .collect();
    let mut random = Random(0x9e37_79b9_7f4a_7c15);
    for _ in 0..INPUTS {
        let mut input = match random.below(3) {
            0 => Vec::new(),
            // A seed in which something is changed: most random bytes are refused at once.
            _ => inputs[random.below(seeds.len() as u64) as usize].clone(),
        };
        if input.is_empty() {
            input = (0..random.below(BYTES_MAX))
                .map(|_| random.next() as u8)
                .collect();
        }
        for _ in 0..random.below(4) {
            let at = random.below(input.len() as u64 + 1) as usize;
            match random.below(3) {
                0 if at < input.len() => drop(input.remove(at)),
                1 => input.insert(at, random.next() as u8),
                _ if at < input.len() => input[at] = random.next() as u8,
                _ => {}
            }
        }
        inputs.push(input);
    }
    for input in &inputs {
        let held = catch_unwind(AssertUnwindSafe(|| property(input)));
        assert!(
            held.is_ok(),
            "{name} does not hold of {}",
            input.escape_ascii()
        );
    }
}

/// Numbers that look random, and are the same each time: xorshift64.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    fn below(&mut self, end: u64) -> u64 {
        self.next() % end.max(1)
    }
}
