//! What the planner is asked about: which model, on which machines. Models come from files, cards or configurations that the program
//! brings along, machines from the catalogue, a description, or this one. It decides nothing; `plan` does.

mod buy;
mod machines;
mod subject;

pub use buy::{Comparison, Limits, Miss, Offer, Offers, offers};
pub use machines::{described, this_machine};
pub use subject::{Subject, SubjectError, planned_models, subject};
