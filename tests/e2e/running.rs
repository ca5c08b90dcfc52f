//! The main path: from a document in the spool to a result.

use crate::space::Space;

#[test]
fn a_document_becomes_a_result() {
    let space = Space::new();
    space.plain_agent("cat; echo done");
    let project = space.project("alpha");
    space.start();
    project.submit("job-20260101-120000-hello", "say hello\n");
    let result = project.wait_result("job-20260101-120000-hello");
    assert_eq!(result["status"], "completed");
    assert_eq!(space.stop(), 0);
    space.assert_no_survivor();
}
