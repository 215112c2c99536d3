//! The scene of demo and benches, with a stand-in for the engine (`scene/stand_in.sh`): what it does
//! with right and wrong answers of `ulpm trust`, `serve` and `live`, and that it leaves nothing.

#![allow(clippy::unwrap_used, reason = "a test may fail")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread;
use std::time::Duration;

use libtest_mimic::{Arguments, Completion, Failed, Trial};
use ulpm::demo::scene::{SceneError, SceneOptions, Watcher, move_once};
use ulpm::report::{Outcome, Size};

/// A copy of the stand-in with the given fault; the options to play with it.
fn stand_in(dir: &Path, fault: &str) -> SceneOptions {
    let program = dir.join("ulpm");
    fs::copy("tests/scene/stand_in.sh", &program).unwrap();
    fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
    fs::write(dir.join("ulpm.real"), env!("CARGO_BIN_EXE_ulpm")).unwrap();
    fs::write(dir.join("ulpm.fault"), fault).unwrap();
    SceneOptions { mem: Size::mib(1), threads: 2, program: Some(program), ..SceneOptions::default() }
}

fn watcher() -> (Watcher, Arc<Mutex<Vec<String>>>) {
    let lines = Arc::new(Mutex::new(vec![]));
    let told = Arc::clone(&lines);
    (Watcher::new(move |line| told.lock().unwrap().push(line.to_owned())), lines)
}

/// Making hosts needs rights that a test process of many threads cannot give itself. In CI it may not be skipped.
fn main() -> std::process::ExitCode {
    let trial = Trial::ignorable_test("plays", || {
        let root = nix::unistd::geteuid().is_root();
        if !root && std::env::var("CI").is_ok_and(|ci| ci == "true") {
            return Err(Failed::from("cannot run here: not root"));
        }
        if root {
            plays();
            return Ok(Completion::Completed);
        }
        eprintln!("skipped plays: not root");
        Ok(Completion::ignored_with("not root"))
    });
    libtest_mimic::run(&Arguments::from_args(), vec![trial]).exit_code()
}

fn left_behind() -> Vec<PathBuf> {
    let ours = format!("ulpm-scene-{}-", std::process::id());
    let entries = fs::read_dir(std::env::temp_dir()).unwrap().flatten().map(|entry| entry.path());
    entries.filter(|path| path.to_string_lossy().contains(&ours)).collect()
}

fn plays() {
    moves_and_checks();
    passes_a_refusal_on();
    shows_why_serve_died();
    never_accepts_two_copies();
    never_takes_another_for_it();
    stops_when_asked();
    assert_eq!(left_behind(), Vec::<PathBuf>::new());
}

fn moves_and_checks() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, lines) = watcher();
    let (report, result) = move_once(&stand_in(dir.path(), "none"), &watcher).unwrap();
    assert_eq!(report.outcome, Outcome::Moved);
    assert!(report.observed_gap_ms.unwrap() >= 0.0);
    assert!(result.passed, "{result:?}");
    let lines = lines.lock().unwrap();
    let said = |text: &str| lines.iter().any(|line| line.contains(text));
    assert!(
        said("  round 0: 256 pages") && said("ulpm serve is ready") && said("goes on as pid"),
        "{lines:?}"
    );
}

fn passes_a_refusal_on() {
    let dir = tempfile::tempdir().unwrap();
    let error = move_once(&stand_in(dir.path(), "refused"), &Watcher::silent()).unwrap_err();
    assert!(error.to_string().contains("exit code 3: fd 5 is a perf event"), "{error}");
    assert!(error.to_string().contains("round 0: 256 pages"), "{error}");
    assert!(matches!(error, SceneError::Move { code: 3, report: Some(_), .. }), "{error:?}");
}

fn shows_why_serve_died() {
    let dir = tempfile::tempdir().unwrap();
    let error = move_once(&stand_in(dir.path(), "serve-dies"), &Watcher::silent()).unwrap_err();
    let text = error.to_string();
    assert!(
        text.contains("'ulpm serve' ended with exit status: 1") && text.contains("cannot bind port"),
        "{text}"
    );
}

fn never_accepts_two_copies() {
    let dir = tempfile::tempdir().unwrap();
    let error = move_once(&stand_in(dir.path(), "two-copies"), &Watcher::silent()).unwrap_err();
    assert!(error.to_string().contains("is still on host-a"), "{error}");
}

fn never_takes_another_for_it() {
    let dir = tempfile::tempdir().unwrap();
    let error = move_once(&stand_in(dir.path(), "impostor"), &Watcher::silent()).unwrap_err();
    assert!(error.to_string().contains("started anew"), "{error}");
}

fn stops_when_asked() {
    let dir = tempfile::tempdir().unwrap();
    let (watcher, _) = watcher();
    let options = stand_in(dir.path(), "none");
    let asked = watcher.clone();
    let asking = thread::spawn(move || {
        thread::sleep(Duration::from_millis(500));
        asked.stop();
    });
    let error = move_once(&options, &watcher).unwrap_err();
    asking.join().unwrap();
    assert!(matches!(error, SceneError::Interrupted), "{error:?}");
}
