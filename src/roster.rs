//! Which workers there should be: the registry against those that there are.

use crate::project::Project;

/// What is to be done about the workers.
#[derive(Debug, Default, PartialEq)]
pub struct Changes {
    /// Positions in the list of workers that serve a project as it is wanted.
    pub keep: Vec<usize>,
    /// Positions of workers that nobody wants any more, or not so.
    pub drain: Vec<usize>,
    /// Positions in the list of wanted projects that have no worker. Where another worker is
    /// still at the same name or place, the project waits until that one has left.
    pub start: Vec<usize>,
}

/// Compares what serves with what is wanted.
pub fn changes(serving: &[&Project], wanted: &[&Project]) -> Changes {
    let mut changes = Changes::default();
    for (at, project) in serving.iter().enumerate() {
        if wanted.contains(project) {
            changes.keep.push(at)
        } else {
            changes.drain.push(at)
        }
    }
    let taken = |project: &Project| {
        serving
            .iter()
            .any(|other| other.name == project.name || other.path == project.path)
    };
    changes.start = (0..wanted.len()).filter(|&at| !taken(wanted[at])).collect();
    changes
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::project::Layout;

    fn project(name: &str, path: &str) -> Project {
        Project {
            name: name.into(),
            path: path.into(),
            layout: Layout::Jobs,
        }
    }

    #[test]
    fn workers_follow_the_registry() {
        let (a, b, c) = (project("a", "/a"), project("b", "/b"), project("c", "/c"));
        assert_eq!(
            changes(&[&a, &b], &[&b, &c]),
            Changes {
                keep: vec![1],
                drain: vec![0],
                start: vec![1]
            }
        );
        assert_eq!(changes(&[], &[]), Changes::default());
    }

    #[test]
    fn a_moved_or_renamed_project_waits_for_its_old_worker() {
        let (old, moved, renamed) = (
            project("a", "/a"),
            project("a", "/elsewhere"),
            project("z", "/a"),
        );
        for wanted in [&moved, &renamed] {
            assert_eq!(
                changes(&[&old], &[wanted]),
                Changes {
                    drain: vec![0],
                    ..Changes::default()
                }
            );
        }
    }
}
