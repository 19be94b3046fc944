package deploy

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"sync"
	"testing"

	"liege/internal/testenv"
)

// The packages of the tests; the second is an upgrade of the first. The programs
// in them are what "make build" makes.
const first, second = "v9.8.0", "v9.8.0-3-gabcdef0"

var built struct {
	once sync.Once
	dir  string
	err  error
}

func TestMain(m *testing.M) {
	code := m.Run()
	if built.dir != "" {
		os.RemoveAll(built.dir)
	}
	os.Exit(code)
}

// packages builds both formats of both versions, once, and returns the file of
// one.
func packages(t *testing.T, format, version string) string {
	t.Helper()
	testenv.Need(t, testenv.Dpkg)
	built.once.Do(func() { built.dir, built.err = buildPackages() })
	if built.err != nil {
		t.Fatal(built.err)
	}
	return only(t, filepath.Join(built.dir, format, version, "liege*."+format))
}

func buildPackages() (string, error) {
	dir, err := os.MkdirTemp("", "liege-packages-")
	if err != nil {
		return "", err
	}
	for _, format := range []string{"deb", "rpm"} {
		for _, version := range []string{first, second} {
			out := filepath.Join(dir, format, version)
			if err := os.MkdirAll(out, 0o755); err != nil {
				return dir, err
			}
			cmd := exec.Command("make", "--no-print-directory", "-C", "..", format, "DESCRIBED="+version, "PACKAGES="+out)
			if text, err := cmd.CombinedOutput(); err != nil {
				return dir, fmt.Errorf("make %s: %w\n%s", format, err, text)
			}
		}
	}
	return dir, nil
}

func only(t *testing.T, pattern string) string {
	t.Helper()
	m, err := filepath.Glob(pattern)
	if err != nil || len(m) != 1 {
		t.Fatalf("%s: %d files, want one", pattern, len(m))
	}
	return m[0]
}

// output is what a command prints; its failure is the test's.
func output(t *testing.T, name string, args ...string) string {
	t.Helper()
	out, err := exec.CommandContext(t.Context(), name, args...).CombinedOutput()
	if err != nil {
		t.Fatalf("%s %s: %v\n%s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

// An entry is one path of a package.
type entry struct{ mode, owner, path string }

// debEntries lists a .deb; directories end in a slash.
func debEntries(t *testing.T, deb string) []entry {
	t.Helper()
	var list []entry
	for line := range strings.Lines(output(t, "dpkg-deb", "--contents", deb)) {
		f := strings.Fields(line)
		list = append(list, entry{f[0], f[1], strings.TrimPrefix(f[5], ".")})
	}
	return list
}

// contents is what both packages hold beside documentation, with the modes.
var contents = map[string]string{
	"/usr/bin/liege":                                  "-rwxr-xr-x",
	"/usr/libexec/liege/liege-emperor":                "-rwxr-xr-x",
	"/usr/libexec/liege/liege-stage":                  "-rwxr-xr-x",
	"/usr/libexec/liege/liege-core":                   "-rwxr-xr-x",
	"/usr/libexec/liege/liege-relay":                  "-rwxr-xr-x",
	"/usr/libexec/liege/sbin/sendmail":                "-rwxr-xr-x",
	"/usr/lib/systemd/system/liege.service":           "-rw-r--r--",
	"/usr/lib/systemd/system/liege-vassals.service":   "-rw-r--r--",
	"/usr/lib/sysusers.d/liege.conf":                  "-rw-r--r--",
	"/usr/lib/tmpfiles.d/liege.conf":                  "-rw-r--r--",
	"/etc/liege/emperor.ini":                          "-rw-r--r--",
	"/etc/vassals":                                    "drwxr-xr-x",
	"/var/log/liege":                                  "drwxr-xr-x",
	"/var/lib/liege":                                  "drwx------",
	"/usr/share/liege/debian-uwsgi.ini":               "-rw-r--r--",
	"/usr/share/liege/policy/liege.cil":               "-rw-r--r--",
	"/usr/share/bash-completion/completions/liege":    "-rw-r--r--",
	"/usr/share/fish/vendor_completions.d/liege.fish": "-rw-r--r--",
	"deb /usr/share/zsh/vendor-completions/_liege":    "-rw-r--r--",
	"deb /etc/needrestart/conf.d/liege.conf":          "-rw-r--r--",
	"deb /usr/share/lintian/overrides/liege":          "-rw-r--r--",
	"rpm /usr/share/zsh/site-functions/_liege":        "-rw-r--r--",
}

// checkContents compares a package with contents. Documentation is any file,
// but readable; directories on the way are root's and 0755.
func checkContents(t *testing.T, format string, got []entry) {
	t.Helper()
	seen := map[string]bool{}
	for _, e := range got {
		path := strings.TrimSuffix(e.path, "/")
		want, listed := contents[path]
		if !listed {
			if want, listed = contents[format+" "+path]; listed {
				path = format + " " + path
			}
		}
		if !listed && (e.mode[0] == 'd' || strings.HasPrefix(path, "/usr/share/doc/liege/")) {
			want, listed = map[bool]string{true: "drwxr-xr-x", false: "-rw-r--r--"}[e.mode[0] == 'd'], true
		}
		if !listed || e.mode != want || e.owner != "root/root" {
			t.Errorf("%s %s %s; want it %q of root", e.mode, e.owner, e.path, want)
		}
		seen[path] = true
	}
	for path := range contents {
		if f, _, ok := strings.Cut(path, " "); !seen[path] && (!ok || f == format) {
			t.Errorf("%s is missing", path)
		}
	}
	for _, doc := range []string{"README.md", "copyright", "third-party.gz", "docs/operations.md", "docs/options.md"} {
		if !seen["/usr/share/doc/liege/"+doc] {
			t.Errorf("the documentation lacks %s", doc)
		}
	}
}

func TestDeb(t *testing.T) {
	deb := packages(t, "deb", second)
	checkContents(t, "deb", debEntries(t, deb))
	field := func(name string) string { return strings.TrimSpace(output(t, "dpkg-deb", "--field", deb, name)) }
	if got := field("Version"); got != "9.8.0+3.gabcdef0" {
		t.Errorf("version %q", got)
	}
	if got := field("Depends"); !regexp.MustCompile(`^libc6 \(>= 2\.\d+\), procps, systemd \| `).MatchString(got) {
		t.Errorf("depends on %q", got)
	}
	conffiles := output(t, "dpkg-deb", "--info", deb, "conffiles")
	if want := "/etc/liege/emperor.ini\n/etc/needrestart/conf.d/liege.conf\n"; conffiles != want {
		t.Errorf("conffiles %q, want %q", conffiles, want)
	}
	programs := t.TempDir()
	output(t, "dpkg-deb", "--extract", deb, programs)
	for _, p := range []string{"usr/bin/liege", "usr/libexec/liege/liege-stage", "usr/libexec/liege/liege-core", "usr/libexec/liege/liege-relay", "usr/libexec/liege/sbin/sendmail"} {
		if out := output(t, "readelf", "--program-headers", filepath.Join(programs, p)); strings.Contains(out, "INTERP") {
			t.Errorf("%s starts a loader", p)
		}
	}
	emperor := filepath.Join(programs, "usr/libexec/liege/liege-emperor")
	for what, args := range map[string][]string{"(PIE|DYN)": {"--file-header"}, "GNU_RELRO": {"--program-headers"}, "BIND_NOW": {"--dynamic"}} {
		if out := output(t, "readelf", append(args, emperor)...); !regexp.MustCompile(what).MatchString(out) {
			t.Errorf("liege-emperor lacks %s", what)
		}
	}
}

// TestVersion: what git describe says, as a version, and in the right order.
func TestVersion(t *testing.T) {
	testenv.Need(t, testenv.Dpkg)
	var last string
	for _, v := range []struct{ described, date, want string }{
		{"unknown", "20250101000000", "0~git20250101000000.unknown"},
		{"f0f0f0f", "20260101000000", "0~git20260101000000.f0f0f0f"},
		{"0123456-dirty", "20260102000000", "0~git20260102000000.0123456+dirty"},
		{"a-mark-45-gabcdef0", "20260102000001", "0~git20260102000001.abcdef0"},
		{"a-mark_here", "20260102000002", "0~git20260102000002.a.mark.here"},
		{"v1.2.0-rc1", "20260103000000", "1.2.0~rc1"},
		{"v1.2.0-rc1-2-gabcdef0", "20260103000000", "1.2.0~rc1+2.gabcdef0"},
		{"v1.2.0", "20260104000000", "1.2.0"},
		{"v1.2.0-5-g0123456", "20260105000000", "1.2.0+5.g0123456"},
		{"v1.2.0-15-gabcdef0-dirty", "20260105000000", "1.2.0+15.gabcdef0+dirty"},
		{"v1.10.0", "20260106000000", "1.10.0"},
	} {
		got := strings.TrimSpace(output(t, "package/version.sh", v.described, v.date))
		if got != v.want {
			t.Errorf("%s: got %s, want %s", v.described, got, v.want)
		}
		if last != "" && exec.Command("dpkg", "--compare-versions", last, "lt", got).Run() != nil {
			t.Errorf("%s is not after %s", got, last)
		}
		last = got
	}
}

// generic are the paths with a context of the distribution's own policy.
var generic = map[string]string{
	"/usr/bin/liege":           "bin_t: it runs as its caller",
	"/usr/libexec/liege/sbin/": "bin_t: apps run it, in their own domains",
	"/usr/lib/systemd/system/": "systemd_unit_file_t",
	"/usr/lib/sysusers.d/":     "lib_t: read by systemd alone",
	"/usr/lib/tmpfiles.d/":     "lib_t: read by systemd alone",
	"/etc/needrestart/":        "etc_t",
	"/usr/share/":              "usr_t: documentation and data that everybody may read",
}

// TestContexts: every path that is installed or made at run time has a context
// of Liege's, or is one of the few that may have the distribution's.
func TestContexts(t *testing.T) {
	var lines []*regexp.Regexp
	for _, m := range regexp.MustCompile(`(?m)^\(filecon "([^"]+)"`).FindAllStringSubmatch(unit(t, "../policy/liege.cil"), -1) {
		lines = append(lines, regexp.MustCompile("^(?:"+m[1]+")$"))
	}
	has := func(path string) bool {
		for prefix := range generic {
			if path == prefix || strings.HasSuffix(prefix, "/") && strings.HasPrefix(path, prefix) {
				return true
			}
		}
		return slices.ContainsFunc(lines, func(re *regexp.Regexp) bool { return re.MatchString(path) })
	}
	paths := []string{"/run/liege", "/run/liege/control.sock", "/run/liege/vassals/v-x", "/var/log/liege/x.log", "/var/lib/liege/v-x.json", "/etc/vassals/x.ini"}
	for _, e := range debEntries(t, packages(t, "deb", first)) {
		if path := strings.TrimSuffix(e.path, "/"); e.mode[0] != 'd' || contents[path] != "" {
			paths = append(paths, path)
		}
	}
	for _, path := range paths {
		if !has(path) {
			t.Errorf("%s has no context in policy/liege.cil", path)
		}
	}
	if has("/etc/passwd") || has("/usr/libexec/liege/other") {
		t.Error("a path that is not Liege's has one: this test finds nothing")
	}
}
