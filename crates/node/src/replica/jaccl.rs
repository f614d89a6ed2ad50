//! Which RDMA device leads from which rank to which: read from a file that somebody wrote for the whole replica, handed
//! out stage by stage in the form that MLX reads. Whether the devices exist is for their machines to find out.

use std::{
    fs::File,
    io::Read,
    ops::Range,
    path::{Path, PathBuf},
};

use serde_json::Value;

/// Bytes of a device file at most.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// What a rank's list holds for each rank: the name of a device, several names, or nothing.
pub(super) struct JacclDevices {
    rows: Vec<Vec<Value>>,
}

/// Why there are no devices.
#[derive(Debug, thiserror::Error)]
pub enum JacclError {
    /// The file cannot be read.
    #[error("cannot read the RDMA devices {}: {source}", .path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
    /// It does not say what is needed.
    #[error(
        "the RDMA devices {}: expected JSON with a list of {n_ranks} entries for each of {n_ranks} ranks, found {found}\n\
         hint: an entry is the device that leads from the list's rank to the entry's, and null where they are the same",
        .path.display()
    )]
    Content {
        /// The file.
        path: PathBuf,
        /// Ranks of the plan.
        n_ranks: u32,
        /// What it holds.
        found: String,
    },
}

impl JacclDevices {
    /// Reads the devices of `n_ranks` ranks.
    pub(super) fn read(path: &Path, n_ranks: u32) -> Result<JacclDevices, JacclError> {
        let failed = |source| JacclError::File { path: path.to_owned(), source };
        let mut text = String::new();
        let file = File::open(path).map_err(failed)?;
        file.take(MAX_FILE_BYTES).read_to_string(&mut text).map_err(failed)?;
        let wrong = |found| JacclError::Content { path: path.to_owned(), n_ranks, found };
        JacclDevices::parse(&text, n_ranks as usize).map_err(wrong)
    }

    /// The devices among some ranks, as JSON.
    pub(super) fn among(&self, ranks: Range<usize>) -> String {
        let rows = self.rows[ranks.clone()].iter().map(|row| Value::from(&row[ranks.clone()]));
        Value::from_iter(rows).to_string()
    }

    fn parse(text: &str, n_ranks: usize) -> Result<JacclDevices, String> {
        let rows: Vec<Vec<Value>> = serde_json::from_str(text).map_err(|e| e.to_string())?;
        if rows.len() != n_ranks {
            return Err(format!("{} lists", rows.len()));
        }
        for (rank, row) in rows.iter().enumerate() {
            if row.len() != n_ranks {
                return Err(format!("{} entries for rank {rank}", row.len()));
            }
            if let Some(peer) = (0..n_ranks).find(|&peer| !is_entry(&row[peer], peer == rank)) {
                return Err(format!("{} from rank {rank} to rank {peer}", row[peer]));
            }
        }
        Ok(JacclDevices { rows })
    }
}

/// A device, several, or none; none in any case for a rank itself.
fn is_entry(entry: &Value, is_own: bool) -> bool {
    match entry {
        Value::Null => true,
        Value::String(_) => !is_own,
        Value::Array(names) => names.iter().all(Value::is_string) && (!is_own || names.is_empty()),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_gets_its_own_square() {
        let text = r#"[[null, "a", null, null], ["b", null, null, "x"],
                       [null, null, null, ["c", "d"]], [null, "y", "e", null]]"#;
        let devices = JacclDevices::parse(text, 4).unwrap();
        assert_eq!(devices.among(0..2), r#"[[null,"a"],["b",null]]"#);
        assert_eq!(devices.among(2..4), r#"[[null,["c","d"]],["e",null]]"#);
    }

    #[test]
    fn what_is_no_matrix_of_devices_is_refused() {
        for (text, says) in [
            ("", "EOF"),
            ("{}", "invalid type: map"),
            ("[[null]]", "1 lists"),
            (r#"[[null, "a"], ["b"]]"#, "1 entries for rank 1"),
            (r#"[[null, "a"], ["b", "c"]]"#, r#""c" from rank 1 to rank 1"#),
            (r#"[[null, 3], ["b", null]]"#, "3 from rank 0 to rank 1"),
            (r#"[[null, [1]], ["b", null]]"#, "[1] from rank 0 to rank 1"),
        ] {
            let found = JacclDevices::parse(text, 2).err().unwrap();
            assert!(found.contains(says), "{text}: {found}");
        }
        let deep = "[".repeat(1 << 19);
        assert!(JacclDevices::parse(&deep, 2).is_err());
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = JacclDevices::read(Path::new("/nonexistent/devices.json"), 2).err().unwrap();
        assert!(error.to_string().contains("/nonexistent/devices.json"), "{error}");
    }
}
