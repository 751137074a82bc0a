//! The table of docs/faults.md, held against the tests: each row is one.

use std::fs;
use std::path::Path;

#[test]
fn each_row_of_the_table_of_faults_is_a_test() {
    let tests = Path::new(env!("CARGO_MANIFEST_DIR"));
    let table = fs::read_to_string(tests.join("../docs/faults.md")).expect("docs/faults.md");
    let files = fs::read_dir(tests).expect("the tests").flatten();
    let sources = files.filter_map(|file| fs::read_to_string(file.path()).ok());
    let sources: Vec<String> = sources.collect();
    let rows = table.lines().filter(|line| line.starts_with("| ")).skip(2);
    let mut count = 0;
    for row in rows {
        count += 1;
        let last = row.trim_end_matches(" |").rsplit(" | ").next();
        let name = last.and_then(|cell| cell.strip_prefix('`')?.strip_suffix('`'));
        let name = name.unwrap_or_else(|| panic!("a row without a test: {row}"));
        let test = format!("#[test]\nfn {name}() {{");
        assert!(
            sources.iter().any(|source| source.contains(&test)),
            "there is no test {name}"
        );
    }
    assert!(count >= 10, "ten kinds of faults at least");
}
