//! `pmset -g batt`: where a Mac's power comes from. It does not know how long a battery lasts.

use super::ToolError;

/// Whether it runs on its battery.
pub fn is_on_battery(text: &str) -> Result<bool, ToolError> {
    let source = text.split_once("Now drawing from '").and_then(|(_, rest)| rest.split_once('\''));
    match source {
        Some(("Battery Power", _)) => Ok(true),
        Some(_) => Ok(false), // mains, or an uninterruptible supply
        None => Err(ToolError::new("pmset", "Now drawing from", text)),
    }
}
