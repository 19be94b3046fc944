package vm

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"regexp"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const suite = "bookworm"

// packages are what every system has: SELinux with its tools and an audit
// daemon, and what tests and demonstration apps run.
var packages = []string{
	"linux-image-cloud-amd64", "systemd-sysv", "udev", "dbus",
	"selinux-policy-default", "policycoreutils", "semodule-utils", "selinux-utils", "secilc", "auditd",
	"python3-minimal", "python3-flask", "curl", "iproute2", "procps", "passwd",
}

// baseOptions make the unpacked system small: nobody reads a manual there.
var baseOptions = []string{
	"--variant=minbase", "--mode=root", "--format=directory",
	"--aptopt=Acquire::Languages none", "--aptopt=APT::Install-Recommends false",
	"--dpkgopt=path-exclude=/usr/share/man/*", "--dpkgopt=path-exclude=/usr/share/doc/*", "--dpkgopt=path-exclude=/usr/share/locale/*",
	"--include=" + strings.Join(packages, ","),
}

// Base returns the directory of an unpacked Debian with everything in
// packages. It is unpacked if the cache does not have it, which takes a minute
// or two; say is told so. Nobody may change what is in it. Of two callers one
// waits for the other.
func (w *Work) Base(ctx context.Context, say func(format string, args ...any)) (string, error) {
	sum := sha256.Sum256([]byte(suite + strings.Join(baseOptions, "\n")))
	base := filepath.Join(w.cache, fmt.Sprintf("base-%x", sum[:6]))
	lock, err := lockFile(w.cache, unix.LOCK_EX)
	if err != nil {
		return "", err
	}
	defer lock.Close()
	if _, err := os.Stat(base); !errors.Is(err, os.ErrNotExist) {
		return base, err
	}
	say("unpacking Debian %s into %s (once, about a minute)", suite, base)
	sources, err := hostSources(ctx)
	if err != nil {
		return "", err
	}
	list, part := filepath.Join(w.Dir, "sources.list"), filepath.Join(w.Dir, "base")
	if err := os.WriteFile(list, []byte(sources), 0o644); err != nil {
		return "", err
	}
	transport, err := hostTransport(ctx)
	if err != nil {
		return "", err
	}
	if err := runApart(ctx, "env", slices.Concat([]string{"TMPDIR=" + w.Dir, "mmdebstrap"}, baseOptions, transport, []string{suite, part, list})...); err != nil {
		return "", err
	}
	// Whole or not at all: what was interrupted lies in the work directory.
	return base, os.Rename(part, base)
}

var ofSuite = regexp.MustCompile(`^(\S+) ` + suite + `((?:-updates|-security)?) main$`)

// hostSources is a sources.list with the places from which apt installs
// Debian's own packages on this machine.
func hostSources(ctx context.Context) (string, error) {
	targets, err := output(ctx, "apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages")
	if err != nil {
		return "", err
	}
	var lines []string
	for target := range strings.Lines(targets) {
		if m := ofSuite.FindStringSubmatch(strings.TrimSpace(target)); m != nil {
			lines = append(lines, fmt.Sprintf("deb [signed-by=/usr/share/keyrings/debian-archive-keyring.gpg] %s %s%s main\n", m[1], suite, m[2]))
		}
	}
	slices.Sort(lines)
	lines = slices.Compact(lines)
	if len(lines) == 0 {
		return "", fmt.Errorf("apt installs nothing from Debian %s on this machine; hint: add its main component to /etc/apt/sources.list", suite)
	}
	return strings.Join(lines, ""), nil
}

// hostTransport are options that make mmdebstrap's apt reach its sources as
// this machine's does: proxies, certificates.
func hostTransport(ctx context.Context) ([]string, error) {
	dump, err := output(ctx, "apt-config", "dump", "--no-empty", "--format", "%F \"%v\";%n", "Acquire::http", "Acquire::https")
	if err != nil {
		return nil, err
	}
	var options []string
	for line := range strings.Lines(dump) {
		options = append(options, "--aptopt="+strings.TrimSpace(line))
	}
	return options, nil
}
