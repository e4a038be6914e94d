//! What the examples share: a test bed without root, the promise, the screen, the picture.

pub(crate) mod namespaces;
pub(crate) mod picture;
pub(crate) mod programs;
pub(crate) mod promise;
pub(crate) mod screen;

pub(crate) const NAME: &str = env!("CARGO_BIN_NAME");
pub(crate) const NOT_AS_PROMISED: u8 = 1;
pub(crate) const CANNOT_RUN: u8 = 77;

/// Why there is no result.
pub(crate) enum Failure {
    CannotRun(String),
    Broken(String),
}

impl Failure {
    pub(crate) fn complain(&self) -> u8 {
        match self {
            Failure::CannotRun(why) => {
                eprintln!("{NAME} cannot run here: {why}");
                CANNOT_RUN
            }
            Failure::Broken(why) => {
                eprintln!("{NAME}: {why}");
                NOT_AS_PROMISED
            }
        }
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Failure {
        Failure::Broken(error.to_string())
    }
}
