//! Which kind of file it is: told, by its name, or by what stands in it.

use policy::Source;

use crate::{haproxy, kubernetes, nginx, shims, sysctl, systemd};

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
    /// systemd's socket units.
    Systemd "systemd" "socket units"
    /// HAProxy.
    Haproxy "haproxy" "haproxy.cfg"
    /// nginx.
    Nginx "nginx" "nginx.conf and what it includes"
    /// sysctl.conf, sysctl.d.
    Sysctl "sysctl" "sysctl.conf, sysctl.d"
    /// Environment variables of shims.
    Variables "variables" "variables of other preload libraries, as a shell has them"
}

impl Format {
    /// The kind of a source, where that can be seen.
    #[must_use]
    pub fn of(source: &Source) -> Option<Self> {
        let name = source.name.rsplit('/').next().unwrap_or_default().to_ascii_lowercase();
        let ends = |ends: &[&str]| ends.iter().any(|end| name.ends_with(end));
        let text = source.text.as_str();
        let is_in = |folder: &str| source.name.contains(folder);
        Some(match () {
            () if ends(&[".yaml", ".yml", ".json"]) => Self::Yaml,
            () if ends(&[".socket"]) || systemd::is_unit(text) => Self::Systemd,
            () if is_in("sysctl.d/") || name.starts_with("sysctl") => Self::Sysctl,
            () if name.contains("haproxy") => Self::Haproxy,
            () if name.contains("nginx") || is_in("nginx/") => Self::Nginx,
            () if kubernetes::is_yaml(text) => Self::Yaml,
            () if haproxy::is_haproxy(text) => Self::Haproxy,
            () if nginx::is_nginx(text) => Self::Nginx,
            () if sysctl::is_sysctl(text) => Self::Sysctl,
            () if ends(&[".env"]) || shims::is_variables(text) => Self::Variables,
            () => return None,
        })
    }

    /// The kind of this name.
    #[must_use]
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|format| format.name() == name)
    }
}
