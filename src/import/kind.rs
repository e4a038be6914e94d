//! Which kind of file it is: told, by its name, or by what stands in it.

use crate::kubernetes;
use policy::Source;

macro_rules! formats {
    ($($(#[$doc:meta])* $format:ident $name:literal $meaning:literal)*) => {
        /// A kind of file.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Format { $($(#[$doc])* $format,)* }

        impl Format {
            /// Every kind.
            pub const ALL: &[Self] = &[$(Self::$format,)*];

            /// Its name, for `--from`.
            #[must_use]
            pub const fn name(self) -> &'static str {
                match self { $(Self::$format => $name,)* }
            }

            /// What it is, in a line.
            #[must_use]
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$format => $meaning,)* }
            }
        }
    };
}

formats! {
    /// Kubernetes, Istio, Envoy.
    Yaml "yaml" "Istio, Envoy, gateways and services of Kubernetes; or JSON"
}

impl Format {
    /// The kind of a source, where that can be seen.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        let name = source.name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        match () {
            () if ends(&[".yaml", ".yml", ".json"]) => Some(Self::Yaml),
            () if kubernetes::is_yaml(&source.text) => Some(Self::Yaml),
            () => None,
        }
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }
}
