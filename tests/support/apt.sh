# shellcheck shell=sh
# Sourced by what fetches packages of another release of Debian, or for another architecture: nothing is installed.

# apt_of SUITE MACHINE FOLDER: from here on apt-get and apt-cache are about that release, asked of the server that this machine's
# apt is set up for. What they keep is in FOLDER.
apt_of() {
  # shellcheck disable=SC2016 # apt's own variable
  apt_site=$(apt-get indextargets --format '$(SITE)' 'Created-By: Packages' | grep '/debian$' | head -n 1)
  mkdir -p "$3/lists/partial" "$3/cache/archives/partial"
  : >"$3/status"
  echo "deb [arch=$2 signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] $apt_site $1 main" >"$3/sources.list"
  cat >"$3/apt.conf" <<END
Dir::Etc::sourcelist "$3/sources.list";
Dir::Etc::sourceparts "-";
Dir::State "$3";
Dir::State::lists "$3/lists";
Dir::State::status "$3/status";
Dir::Cache "$3/cache";
APT::Architecture "$2";
APT::Architectures "$2";
APT::Sandbox::User "root";
END
  export APT_CONFIG="$3/apt.conf"
  apt-get update -qq
}
