//! `onefold field-test`: checks and measures a machine that nobody of this project has, and writes one file to send back.
//! What computes runs in processes of its own, so that a crash ends a part and not the report; what fails is written down and
//! the rest goes on. It sends nothing and changes no setting.

mod bench;
mod child;
mod conformance;
mod links;
mod loopback;
mod machine;
mod meter;
#[cfg(feature = "mlx")]
mod mlx;
mod outcome;
mod part;
mod power;
mod privacy;
mod render;
mod report;
mod verbs;

use std::{
    env,
    path::PathBuf,
    time::{Instant, SystemTime},
};

use anyhow::{Result, bail};
use base::DType;
use hw::Machine;

use crate::{args::FieldTestArgs, report::print};
use bench::Setup;
use child::Scratch;
use outcome::{Outcome, Status};
pub(crate) use part::Part;
use privacy::Privacy;
use report::{Head, Report};

/// Runs every part and writes the report; an error at the end says what failed.
pub(crate) fn run(args: &FieldTestArgs) -> Result<()> {
    if let Some(part) = args.part {
        return part::run(part, args);
    }
    let machine = Machine::probe();
    let host = machine.name.clone().unwrap_or_else(|| "machine".to_owned());
    let date = machine::Date::of(SystemTime::now());
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(machine::file_name(&host, &date)));
    let scratch = Scratch::new()?;
    let privacy = Privacy::new(&host, env::home_dir().as_deref(), scratch.folder());
    let head = Head { date: date.to_string(), quick: args.quick };
    let report = Report::create(path, head, privacy)?;
    let mut test = FieldTest { args, report, scratch };
    test.announce();
    test.run(&machine);
    test.report.finish()?;
    print(format_args!("The report is {}. Read it, then send it back.", test.report.path().display()))?;
    let (failed, n_parts) = test.report.failed();
    if !failed.is_empty() {
        bail!(
            "{} of {n_parts} parts failed: {}\nhint: the report says why; it is worth sending all the same",
            failed.len(),
            failed.join(", ")
        );
    }
    Ok(())
}

/// A test on its way.
struct FieldTest<'a> {
    args: &'a FieldTestArgs,
    report: Report,
    scratch: Scratch,
}

impl FieldTest<'_> {
    fn announce(&self) {
        let path = self.report.path().display();
        eprintln!("field test of this machine; the report grows in {path}");
        eprintln!(
            "nothing is sent anywhere and no setting is changed; other programs at work disturb the measurements"
        );
    }

    fn run(&mut self, machine: &Machine) {
        self.record("machine", "machine", |_| Ok(Outcome::passed(machine::describe(machine))));
        let mlx = self.part("machine", "MLX", Part::Mlx);
        let has_mlx = mlx.status != Status::Skipped;
        self.part("conformance", "conformance of cpu", Part::Cpu);
        if has_mlx {
            for (part, dtype) in
                [(Part::MlxF32, DType::F32), (Part::MlxF16, DType::F16), (Part::MlxBf16, DType::BF16)]
            {
                self.part("conformance", &format!("conformance of mlx in {dtype}"), part);
            }
        }
        self.record("links", "links", |test| links::look(&test.scratch));
        self.part("links", "verbs", Part::Verbs);
        self.part("links", "loopback", Part::Loopback);
        self.benchmark(has_mlx, mlx.result["has_gpu"] == true);
    }

    /// Speed and power. What may wedge a GPU comes last.
    fn benchmark(&mut self, has_mlx: bool, has_gpu: bool) {
        let mut model = None;
        self.record("benchmark", "model", |test| {
            let (found, outcome) = bench::model(test.args, &test.scratch)?;
            model = Some(found);
            Ok(outcome)
        });
        let Some(model) = model else { return };
        for setup in Setup::safe(has_mlx) {
            self.bench(&setup, &model, has_gpu);
        }
        self.record("power", "power", |test| {
            child::part(test.args, Part::Power, Some(&model), &test.scratch)
        });
        if has_mlx && self.args.fast_fence {
            for setup in Setup::fast() {
                self.bench(&setup, &model, has_gpu);
            }
        }
    }

    fn bench(&mut self, setup: &Setup, model: &str, has_gpu: bool) {
        let sizes = setup.sizes(self.args.quick, has_gpu);
        self.record("benchmark", &setup.to_string(), |test| setup.run(model, &sizes, &test.scratch));
    }

    fn part(&mut self, section: &'static str, name: &str, part: Part) -> Outcome {
        self.record(section, name, |test| child::part(test.args, part, None, &test.scratch))
    }

    /// Runs a part, tells how it went, and writes the report with it.
    fn record(
        &mut self,
        section: &'static str,
        name: &str,
        run: impl FnOnce(&FieldTest<'_>) -> Result<Outcome>,
    ) -> Outcome {
        eprintln!("{name} …");
        let started = Instant::now();
        let outcome = run(self).unwrap_or_else(|error| Outcome::failed(format!("{error:#}")));
        let time = started.elapsed();
        let why = outcome.why.as_deref().and_then(|why| why.lines().next());
        let why = why.map_or_else(String::new, |why| format!(": {why}"));
        eprintln!("  {} after {}{why}", outcome.status.name(), crate::report::seconds(time));
        if let Err(error) = self.report.add(section, name, time, &outcome) {
            // the next part may have more luck, and the end tells for certain
            eprintln!("warning: {error:#}");
        }
        outcome
    }
}
