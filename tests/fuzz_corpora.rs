//! The kept corpora of the fuzz targets, replayed without a fuzzer: what once broke a promise does not break it again.

#[test]
fn every_kept_input_passes() {
    for (name, target) in tests::fuzz::TARGETS {
        let corpus = tests::fuzz::corpus(name);
        let inputs =
            std::fs::read_dir(&corpus).unwrap_or_else(|error| panic!("{}: {error}", corpus.display()));
        let mut count = 0;
        for input in inputs {
            let path = input.expect("a corpus can be listed").path();
            target(&std::fs::read(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display())));
            count += 1;
        }
        assert!(count > 0, "the corpus {} is empty", corpus.display());
    }
}
