//! What programs in the kernel do for each key, in words.

use crate::catalog::{CATALOG, Entry};
use crate::constants::option_name;
use crate::in_kernel::{InKernel, OLDEST};
use crate::kernel::KernelOption;
use crate::key::Key;

/// Names of options, in a list.
fn names(options: &[KernelOption]) -> String {
    let names: Vec<&str> = options.iter().filter_map(|option| option_name(option.level, option.name)).collect();
    names.join(", ")
}

impl Entry {
    /// What programs in the kernel do for the key, in words.
    #[must_use]
    pub fn in_kernel_in_words(&self) -> String {
        let words = match (self.key, self.about().in_kernel) {
            (Key::Enforce, _) => "yes; fill from Linux 6.1".to_owned(),
            (Key::Dscp, _) => "yes; some kernels refuse it on IPv6 sockets that connect to IPv4 addresses".to_owned(),
            (_, InKernel::Bpf { since }) if since == OLDEST => "yes".to_owned(),
            (_, InKernel::Bpf { since }) => format!("yes, from Linux {since}"),
            (_, InKernel::ByOption) => "yes, for options whose key has a yes here, and a few others".to_owned(),
            (_, no) => {
                let why = no.why_not(&names(&self.kernel)).unwrap_or_default();
                format!("no: {why}")
            }
        };
        words.replace("in the kernel ", "")
    }
}

/// The list of all keys for docs/design-kernel.md.
#[must_use]
pub fn table() -> String {
    let row = |entry: &Entry| format!("| `{}` | {} |\n", entry.key.name(), entry.in_kernel_in_words());
    format!("| option | in the kernel |\n|---|---|\n{}", CATALOG.iter().map(row).collect::<String>())
}
