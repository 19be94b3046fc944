package guest

import (
	"context"
	_ "embed"
	"fmt"
	"io"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"liege/emperor/control"
)

//go:embed testdata/hostile.py
var hostile []byte

// hostile lays an app that does what it is told into dir, for a user.
func (h *host) hostile(dir, user string) {
	h.Helper()
	for _, d := range []string{dir, dir + "/data", dir + "/cache"} {
		if err := os.MkdirAll(d, 0o755); err != nil {
			h.Fatal(err)
		}
	}
	h.write(dir+"/app.py", string(hostile))
	h.write(dir+"/data/secret", "secret of "+user)
	h.run("chown", "-R", user+":", dir)
	h.run("chmod", "0700", dir+"/data")
	h.run("restorecon", "-RF", dir)
}

// ask sends code to the hostile app that listens at addr, and returns its
// answer.
func (h *host) ask(addr, code string) string {
	h.Helper()
	client := &http.Client{Timeout: patience, Transport: &http.Transport{
		DisableKeepAlives: true,
		DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return new(net.Dialer).DialContext(ctx, "tcp", addr)
		},
	}}
	resp, err := client.Post("http://vassal/", "text/x-python", strings.NewReader(code))
	if err != nil {
		h.Fatalf("%s: %v", addr, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil || resp.StatusCode != 200 {
		h.Fatalf("%s: %d %s %v", addr, resp.StatusCode, b, err)
	}
	return string(b)
}

// does expects that code works, and prints want.
func (h *host) does(addr, code, want string) {
	h.Helper()
	if got := strings.TrimSpace(h.ask(addr, code)); got != strings.TrimSpace("ok "+want) {
		h.Errorf("%s: %q, want %q", code, got, want)
	}
}

// refused waits until the vassal's file, or a start of it, has failed.
func (h *host) refused(name string) control.Vassal {
	h.Helper()
	var v control.Vassal
	h.until(name+" is refused", func() bool {
		found, err := h.look(name)
		if err != nil {
			return false // not seen yet
		}
		v = found
		return v.Error != nil && v.State != control.Starting
	})
	return v
}

// recipe is the vassal of the recipe that Liege exists for, for the app name.
func recipe(name string, port int) string {
	return fmt.Sprintf(`uid = %[1]s
gid = %[1]s
chdir = /srv/www/%[1]s
wsgi-file = app.py
http-socket = 127.0.0.1:%[2]d
socket = /run/liege/%[1]s.sock
processes = 2
dlopen = /lib/x86_64-linux-gnu/libselinux.so.1
hook-as-root = mount:tmpfs tmpfs /srv/www/%[1]s/cache nosuid,nodev size=1m,mode=0777
hook-as-root = hostname:the-%[1]s
hook-as-root = exec:cat /proc/self/attr/current; echo
hook-as-user = exec:cat /proc/self/attr/current; echo
hook-as-user = callret:setcon system_u:system_r:webapp_%[1]s_t:s0

[vassal]
memory-max = 256M
pids-max = 64
`, name, port)
}

// TestRecipe is the recipe itself: two apps, each in its own domain, entered
// last; every process of theirs is what it should be, and each reaches nothing
// of the other's. Every probe is made three times: by the app in its sandbox,
// where it must fail; in the host's namespaces and as the victim's own user, or root, but
// in the app's domain, where SELinux alone must stop it; and without the domain,
// where it must succeed, or the probe would prove nothing.
func TestRecipe(t *testing.T) {
	h := newHost(t)
	from := h.auditMark()
	foreign := []posture{postureOf(t, 1)}
	for name, port := range map[string]int{"foo": 8101, "bar": 8102} {
		h.hostile("/srv/www/"+name, name)
		h.drop(name, recipe(name, port))
		v := h.up(name)
		for _, pid := range family(t, *v.PID) {
			checkPosture(t, name, pid, foreign)
			if got, want := readProc(t, pid, "attr/current"), "system_u:system_r:webapp_"+name+"_t:s0"; got != want {
				t.Errorf("process %d of %s is %s", pid, name, got)
			}
		}
		foreign = append(foreign, postureOf(t, *v.PID))
		checkRecipe(h, name, v)
	}
	for _, d := range h.deniedSince(from) {
		t.Errorf("denied while two vassals start and serve: %s\n%s", d.what, d.line)
	}
	h.tolerate("webapp_foo_t")
	h.tolerate("initrc_t") // the test's own
	all := probes(h, "bar")
	confined, free := map[string]string{}, map[string]string{}
	for user, its := range map[string][]probe{"bar": those(all, false), "root": those(all, true)} {
		maps.Copy(confined, outside(h, its, user, "system_u:system_r:webapp_foo_t:s0"))
		maps.Copy(free, outside(h, its, user, ""))
	}
	for _, p := range all {
		t.Run(p.name, func(t *testing.T) {
			if got := h.ask("127.0.0.1:8101", p.code); strings.HasPrefix(got, "ok") {
				t.Errorf("the app does it: %s", got)
			}
			if got := confined[p.name]; !p.inside && strings.HasPrefix(got, "ok") {
				t.Errorf("it is done in the app's domain: %s", got)
			}
			if got := free[p.name]; !strings.HasPrefix(got, "ok") {
				t.Errorf("it is not done without a domain either: %s", got)
			}
		})
	}
}

// checkRecipe looks whether all that the recipe says has come to be.
func checkRecipe(h *host, name string, v control.Vassal) {
	h.Helper()
	for code, want := range map[string]string{
		"import socket; print(socket.gethostname())":                                                 "the-" + name,
		"print(open('data/secret').read())":                                                          "secret of " + name,
		"open('data/own', 'w').write('x'); print(open('data/own').read())":                           "x",
		"open('cache/own', 'w').write('x'); print(open('cache/own').read())":                         "x",
		"open('/tmp/own', 'w').write('x'); print(open('/tmp/own').read())":                           "x",
		"import subprocess; print(subprocess.check_output(['/bin/cat', '/proc/self/attr/current']))": "b'system_u:system_r:webapp_" + name + "_t:s0\\x00'",
	} {
		h.does(v.Listen[0], code, want)
	}
	log := h.run("cat", *v.Log)
	for _, domain := range []string{"liege_hook_t", "webapp_" + name + "_t"} {
		if !strings.Contains(log, domain) {
			h.Errorf("no hook of %s ran as %s:\n%s", name, domain, log)
		}
	}
	for controller, files := range map[string][2]string{"memory": {"memory.max", "memory.limit_in_bytes"}, "pids": {"pids.max", "pids.max"}} {
		file := files[0]
		if cgroupV1() {
			file = files[1]
		}
		want := map[string]string{"memory": fmt.Sprint(256 << 20), "pids": fmt.Sprint(*v.PidsMax)}[controller]
		if got := h.run("cat", filepath.Join(cgroupDir(controller, *v.Cgroup), file)); got != want {
			h.Errorf("%s of %s is %s, want %s", file, name, got, want)
		}
	}
}

// A probe is something that one tenant may not do to another, or to the host.
type probe struct {
	name string
	code string // Python; it raises an exception if it is kept from it
	// inside: only the sandbox stops it, as the domain may do such a thing in
	// general; it is not tried in the domain alone.
	inside bool
	// root: it is about something of root's. Else it is made with the victim's
	// user, so that no mode of a file is what stops it.
	root bool
}

// trace attaches to a process, as a debugger does, and lets it go.
const trace = `import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
if libc.ptrace(16, %d, None, None) != 0:
    raise OSError(ctypes.get_errno(), "ptrace")
os.waitpid(%[1]d, 0x40000000)
libc.ptrace(17, %[1]d, None, None)
`

// probes are the attacks on the vassal victim, on the Emperor and on the host.
func probes(h *host, victim string) []probe {
	h.Helper()
	v := h.status(victim)
	pid := *v.PID
	const sock = "import socket\ns = socket.socket(socket.%s)\ns.settimeout(5)\ns.connect(%s)\n"
	// In a child, which has one thread, and which the new domain may keep from
	// everything that this process has open.
	const setcon = `import os
pid = os.fork()
if pid == 0:
    try:
        fd = os.open("/proc/self/attr/current", os.O_WRONLY)
        os.write(fd, b"%s")
        os._exit(0)
    except OSError as e:
        os._exit(e.errno)
failed = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
if failed:
    raise OSError(failed, os.strerror(failed))
`
	return []probe{
		{name: "read its code", code: fmt.Sprintf("print(open('/srv/www/%s/app.py').read())", victim)},
		{name: "read its data", code: fmt.Sprintf("print(open('/srv/www/%s/data/secret').read())", victim)},
		{name: "write its data", code: fmt.Sprintf("open('/srv/www/%s/data/secret', 'a').write('x')", victim)},
		{name: "signal it", code: fmt.Sprintf("import os; os.kill(%d, 0)", pid)},
		{name: "stop it", code: fmt.Sprintf("import os, signal; os.kill(%d, signal.SIGCONT)", pid)},
		{name: "trace it", code: fmt.Sprintf(trace, pid)},
		{name: "read its environment", code: fmt.Sprintf("print(open('/proc/%d/environ').read())", pid)},
		{name: "read its memory", code: fmt.Sprintf("open('/proc/%d/mem', 'rb')", pid)},
		{name: "take its descriptors", code: fmt.Sprintf("import os; print(os.listdir('/proc/%d/fd'))", pid)},
		{name: "connect to its unix socket", code: fmt.Sprintf(sock, "AF_UNIX", fmt.Sprintf("'/run/liege/%s.sock'", victim))},
		{name: "connect to its port", code: fmt.Sprintf(sock, "AF_INET", "('127.0.0.1', 8102)")},
		{name: "read its file", root: true, code: fmt.Sprintf("print(open('/etc/vassals/%s.ini').read())", victim)},
		{name: "read its log", code: fmt.Sprintf("print(open('/var/log/liege/%s.log').read())", victim)},
		{name: "write to its log", code: fmt.Sprintf("import os; os.write(os.open('/run/liege/vassals/v-%s/log', os.O_WRONLY), b'x\\n')", victim)},
		{name: "read shadow", root: true, code: "print(open('/etc/shadow').read())"},
		{name: "read the Emperor's state", root: true, code: "import os; print(os.listdir('/var/lib/liege'))"},
		{name: "read the Emperor's records", root: true, code: fmt.Sprintf("print(open('/run/liege/vassals/v-%s/gen-%d.json').read())", victim, v.Generation)},
		{name: "ask the Emperor", root: true, code: fmt.Sprintf(sock, "AF_UNIX", "'/run/liege/control.sock'")},
		{name: "trace the Emperor", root: true, code: fmt.Sprintf(trace, h.emperor())},
		{name: "change the stage's program", root: true, code: "open('/usr/libexec/liege/liege-stage', 'r+b')"},
		{name: "become its domain", code: fmt.Sprintf(setcon, "system_u:system_r:webapp_bar_t:s0")},
		{name: "become the stage", code: fmt.Sprintf(setcon, "system_u:system_r:liege_stage_t:s0")},
		{name: "execute into its domain", code: "f = open('/proc/self/attr/exec', 'w')\nf.write('system_u:system_r:webapp_bar_t:s0')\nf.close()"},
		{name: "make SELinux permissive", root: true, code: "f = open('/sys/fs/selinux/enforce', 'w')\nf.write('1')\nf.close()"},
		{name: "load a policy", root: true, code: "open('/sys/fs/selinux/load', 'r+b')"},
		{name: "mount", root: true, inside: true, code: `import ctypes
libc = ctypes.CDLL(None, use_errno=True)
if libc.mount(b"none", b"/mnt", b"tmpfs", 0, None) != 0:
    raise OSError(ctypes.get_errno(), "mount")
libc.umount2(b"/mnt", 2)
`},
	}
}

// those are the probes about something of root's, or the others.
func those(all []probe, root bool) []probe {
	return slices.DeleteFunc(slices.Clone(all), func(p probe) bool { return p.root != root })
}

// outside makes probes in the host's namespaces, as a user, in a domain or, if
// it is empty, in this test's own, and returns their answers. The way into an
// app's domain is the core's program; what the probes found comes back in
// files, since the domain may use no descriptor of the test's.
func outside(h *host, probes []probe, user, domain string) map[string]string {
	h.Helper()
	dir, err := os.MkdirTemp("/srv", "probe-") // where a domain may look for it
	if err != nil {
		h.Fatal(err)
	}
	defer os.RemoveAll(dir)
	files := map[string]string{"hostile.py": string(hostile)}
	for i, p := range probes {
		files[fmt.Sprintf("%02d.code", i)], files[fmt.Sprintf("%02d.result", i)] = p.code, notRun
	}
	label := "system_u:object_r:var_t:s0"
	argv := []string{"/usr/bin/python3", dir + "/hostile.py", dir}
	if domain != "" {
		f := strings.SplitN(domain, ":", 4)
		label = "system_u:object_r:" + strings.TrimSuffix(f[2], "_t") + "_rw_t:" + f[3]
		argv = append([]string{"runcon", domain, "/usr/libexec/liege/liege-core", "--run", argv[0]}, argv...)
	}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			h.Fatal(err)
		}
	}
	h.run("chcon", "--recursive", label, dir)
	h.run("chown", "--recursive", user, dir)
	said, code := h.try(append([]string{"/usr/bin/setpriv", "--reuid=" + user, "--regid=" + user, "--clear-groups"}, argv...)...)
	answers := map[string]string{}
	for i, p := range probes {
		b, err := os.ReadFile(filepath.Join(dir, fmt.Sprintf("%02d.result", i)))
		if err != nil || string(b) == notRun {
			h.Fatalf("%s, as %s in %q: %v: the probe left no word: exit %d\n%s", p.name, user, domain, err, code, said)
		}
		answers[p.name] = string(b)
	}
	return answers
}

const notRun = "it did not run"
