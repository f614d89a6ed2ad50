//! What was measured, and what it is held against: rows with a ratio and a goal, as Markdown and as JSON. It does not
//! know how anything is measured.

use std::fmt;

use serde_json::{Value, json};

/// Runs of one test.
#[derive(Clone, Debug, Default)]
pub(super) struct Samples(Vec<f64>);

/// A number out of several, with the lowest and the highest.
#[derive(Clone, Debug)]
pub(super) struct Figure {
    pub(super) value: f64,
    range: (f64, f64),
    samples: Vec<f64>,
    /// Such as "tok/s".
    unit: &'static str,
    /// Whose number it is, where the column does not say so.
    whose: String,
}

/// What a ratio has to be.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) enum Goal {
    AtLeast(f64),
    AtMost(f64),
    Below(f64),
}

/// Sections of the table, in its order.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Section {
    Decode,
    Prefill,
    Roofline,
    Ranks,
    Streams,
    Load,
}

/// One comparison.
#[derive(Clone, Debug)]
pub(super) struct Row {
    pub(super) section: Section,
    pub(super) model: String,
    pub(super) setup: String,
    pub(super) test: String,
    pub(super) ours: Figure,
    pub(super) against: Figure,
    /// `None`: for information.
    pub(super) goal: Option<Goal>,
}

impl Samples {
    pub(super) fn extend(&mut self, more: impl IntoIterator<Item = f64>) {
        self.0.extend(more);
        self.0.sort_by(f64::total_cmp);
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    pub(super) fn median(&self) -> f64 {
        let n = self.0.len();
        if n == 0 { f64::NAN } else { (self.0[(n - 1) / 2] + self.0[n / 2]) / 2.0 }
    }

    /// The value that a share `q` of all reach at most; of few, the next higher.
    pub(super) fn quantile(&self, q: f64) -> f64 {
        let rank = (q * self.0.len() as f64).ceil() as usize;
        self.0.get(rank.max(1) - 1).copied().unwrap_or(f64::NAN)
    }

    /// The median as a figure.
    pub(super) fn figure(&self, unit: &'static str) -> Figure {
        self.figure_of(self.median(), unit)
    }

    /// Another value of these as a figure.
    pub(super) fn figure_of(&self, value: f64, unit: &'static str) -> Figure {
        let range = (self.quantile(0.0), self.quantile(1.0));
        Figure { value, range, samples: self.0.clone(), unit, whose: String::new() }
    }
}

impl FromIterator<f64> for Samples {
    fn from_iter<I: IntoIterator<Item = f64>>(values: I) -> Samples {
        let mut samples = Samples::default();
        samples.extend(values);
        samples
    }
}

impl Figure {
    /// A single number.
    pub(super) fn single(value: f64, unit: &'static str) -> Figure {
        Samples(vec![value]).figure(unit)
    }

    pub(super) fn of(self, whose: impl Into<String>) -> Figure {
        Figure { whose: whose.into(), ..self }
    }

    /// Every number times `factor`, in another unit.
    pub(super) fn scaled(&self, factor: f64, unit: &'static str) -> Figure {
        let samples: Samples = self.samples.iter().map(|value| value * factor).collect();
        Figure { whose: self.whose.clone(), ..samples.figure_of(self.value * factor, unit) }
    }

    fn json(&self) -> Value {
        json!({ "value": self.value, "unit": self.unit, "whose": self.whose, "samples": self.samples })
    }
}

impl fmt::Display for Figure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Figure { value, range: (low, high), unit, whose, .. } = self;
        if !whose.is_empty() {
            write!(f, "{whose} ")?;
        }
        let digits = digits(*value);
        write!(f, "{value:.digits$}")?;
        if self.samples.len() > 1 {
            write!(f, " ({low:.digits$}-{high:.digits$})")?;
        }
        write!(f, " {unit}")
    }
}

/// Three significant digits, and none before the point left out.
fn digits(value: f64) -> usize {
    let before = if value.abs() >= 1.0 { value.abs().log10().floor() as usize + 1 } else { 0 };
    3usize.saturating_sub(before)
}

impl Goal {
    fn is_met(self, ratio: f64) -> bool {
        match self {
            Goal::AtLeast(goal) => ratio >= goal,
            Goal::AtMost(goal) => ratio <= goal,
            Goal::Below(goal) => ratio < goal,
        }
    }
}

impl fmt::Display for Goal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Goal::AtLeast(goal) => write!(f, "≥{goal}"),
            Goal::AtMost(goal) => write!(f, "≤{goal}"),
            Goal::Below(goal) => write!(f, "<{goal}"),
        }
    }
}

impl Section {
    const ALL: [Section; 6] = [
        Section::Decode,
        Section::Prefill,
        Section::Roofline,
        Section::Ranks,
        Section::Streams,
        Section::Load,
    ];

    fn title(self) -> &'static str {
        match self {
            Section::Decode => "Decode",
            Section::Prefill => "Prefill",
            Section::Roofline => "Machine's limits",
            Section::Ranks => "Two ranks",
            Section::Streams => "Concurrent streams",
            Section::Load => "Load to first token",
        }
    }
}

impl Row {
    /// Ours divided by what it is compared with.
    pub(super) fn ratio(&self) -> f64 {
        self.ours.value / self.against.value
    }

    /// Whether it does what it should; what has no goal does.
    pub(super) fn is_met(&self) -> bool {
        self.goal.is_none_or(|goal| goal.is_met(self.ratio()))
    }

    fn json(&self) -> Value {
        json!({
            "section": self.section.title(), "model": self.model, "setup": self.setup, "test": self.test,
            "ours": self.ours.json(), "against": self.against.json(), "ratio": self.ratio(),
            "goal": self.goal.map(|goal| goal.to_string()), "is_met": self.is_met(),
        })
    }
}

impl fmt::Display for Row {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Row { model, setup, test, ours, against, .. } = self;
        let (goal, is_met) = match self.goal {
            None => (String::new(), ""),
            Some(goal) => (goal.to_string(), if self.is_met() { "yes" } else { "**no**" }),
        };
        let ratio = self.ratio();
        write!(f, "| {model} | {setup} | {test} | {ours} | {against} | {ratio:.2} | {goal} | {is_met} |")
    }
}

/// All rows by section, and how many goals are met.
pub(super) fn markdown(rows: &[Row]) -> String {
    let mut text = String::new();
    for section in Section::ALL {
        let rows: Vec<_> = rows.iter().filter(|row| row.section == section).collect();
        if rows.is_empty() {
            continue;
        }
        text += &format!("### {}\n\n", section.title());
        text += "| model | setup | test | onefold | compared with | ratio | goal | met |\n";
        text += "|---|---|---|---|---|---|---|---|\n";
        rows.iter().for_each(|row| text += &format!("{row}\n"));
        text += "\n";
    }
    let n_goals = rows.iter().filter(|row| row.goal.is_some()).count();
    let n_met = rows.iter().filter(|row| row.goal.is_some() && row.is_met()).count();
    text + &format!("{n_met} of {n_goals} goals met")
}

/// The same with every run.
pub(super) fn json(rows: &[Row]) -> Value {
    rows.iter().map(Row::json).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(ours: f64, against: f64, goal: Option<Goal>) -> Row {
        Row {
            section: Section::Decode,
            model: "m".into(),
            setup: "1 thread".into(),
            test: "tg128".into(),
            ours: Samples::from_iter([ours + 1.0, ours, ours - 1.0]).figure("tok/s"),
            against: Figure::single(against, "tok/s").of("llama.cpp plain"),
            goal,
        }
    }

    #[test]
    fn the_median_of_an_even_number_is_between_the_middle_two() {
        assert_eq!(Samples::from_iter([4.0, 1.0, 2.0, 9.0]).median(), 3.0);
        assert_eq!(Samples::from_iter([9.0, 1.0, 2.0]).median(), 2.0);
        assert!(Samples::default().median().is_nan());
    }

    #[test]
    fn a_quantile_is_one_of_the_samples() {
        let samples: Samples = (1..=20).map(f64::from).collect();
        assert_eq!([0.0, 0.5, 0.95, 1.0].map(|q| samples.quantile(q)), [1.0, 10.0, 19.0, 20.0]);
        assert_eq!(Samples::from_iter([7.0]).quantile(0.95), 7.0);
    }

    #[test]
    fn a_goal_is_met_at_its_edge_and_below_means_below() {
        assert!(Goal::AtLeast(1.5).is_met(1.5) && !Goal::AtLeast(1.5).is_met(1.49));
        assert!(Goal::AtMost(0.7).is_met(0.7) && !Goal::AtMost(0.7).is_met(0.71));
        assert!(Goal::Below(1.0).is_met(0.99) && !Goal::Below(1.0).is_met(1.0));
        assert!(
            !row(f64::NAN, 1.0, Some(Goal::AtLeast(1.5))).is_met(),
            "what was not measured meets nothing"
        );
    }

    #[test]
    fn a_row_says_both_numbers_the_ratio_and_whether_the_goal_is_met() {
        let missed = row(120.0, 100.0, Some(Goal::AtLeast(1.5)));
        let line = "| m | 1 thread | tg128 | 120 (119-121) tok/s | llama.cpp plain 100 tok/s | 1.20 | ≥1.5 | **no** |";
        assert_eq!(missed.to_string(), line);
        let text = markdown(&[missed, row(16.0, 1.0, Some(Goal::AtLeast(1.5))), row(1.0, 2.0, None)]);
        assert!(text.starts_with("### Decode\n\n| model |"), "{text}");
        assert!(
            text.contains("| 16.0 (15.0-17.0) tok/s | llama.cpp plain 1.00 tok/s | 16.00 | ≥1.5 | yes |")
        );
        assert!(text.ends_with("\n\n1 of 2 goals met"), "{text}");
    }

    #[test]
    fn scaling_keeps_the_ratio_of_value_and_range() {
        let scaled = Samples::from_iter([10.0, 20.0, 40.0]).figure("tok/s").scaled(0.1, "GB/s");
        assert_eq!(scaled.to_string(), "2.00 (1.00-4.00) GB/s");
    }
}
