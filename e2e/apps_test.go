package e2e

import (
	"encoding/json"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"

	"liege/internal/testenv"
)

// probe is a Flask app that tells what it sees from inside.
const probe = `
import json, os, socket
from flask import Flask, jsonify

app = Flask(__name__)

def status():
    with open("/proc/self/status") as f:
        return dict(line.rstrip("\n").split(":\t", 1) for line in f if ":\t" in line)

def reach(address):
    try:
        socket.create_connection(address, 2).close()
        return "connected"
    except OSError as e:
        return e.strerror or str(e)

def read(path):
    try:
        with open(path, "rb") as f:
            f.read(1)
        return "read"
    except OSError as e:
        return e.strerror

@app.route("/")
def hello():
    return "Hello from Flask"

@app.route("/probe")
def probe():
    return jsonify(
        status=status(),
        uid=os.getuid(), gid=os.getgid(), groups=os.getgroups(),
        ns={n: os.readlink("/proc/self/ns/" + n) for n in ("mnt", "pid", "ipc", "uts", "net", "cgroup")},
        pids=sorted(int(p) for p in os.listdir("/proc") if p.isdigit()),
        root=sorted(os.listdir("/")),
        home=sorted(os.listdir("/home")) if os.path.isdir("/home") else None,
        fds={fd: os.readlink("/proc/self/fd/" + fd) for fd in os.listdir("/proc/self/fd") if os.path.lexists("/proc/self/fd/" + fd)},
        mounts=open("/proc/self/mountinfo").read().splitlines(),
        environ=dict(os.environ),
        hostname=socket.gethostname(),
        loopback=reach(("127.0.0.1", HOSTPORT)),
        files={p: read(p) for p in ("/etc/shadow", "/etc/vassals", "NEIGHBOUR", "EMPERORLOG", "/proc/1/environ", "/proc/kcore", "/dev/mem")},
        cgroup=open("/proc/self/cgroup").read(),
    )
`

type seen struct {
	Status             map[string]string
	UID, GID           int
	Groups             []int
	NS                 map[string]string
	Pids               []int
	Root               []string
	FDs                map[string]string
	Mounts             []string
	Environ            map[string]string
	Hostname, Loopback string
	Files              map[string]string
	Cgroup             string
}

// TestFlask: Debian's python3-flask in a vassal of www-data's, and what it can
// see of the host and of its neighbour: nothing.
func TestFlask(t *testing.T) {
	r := newRealm(t)
	testenv.Need(t, testenv.Flask)
	host, port := hostListener(t)
	neighbour := r.write("other/secret.txt", "secret")
	r.write("other/hello.py", hello("neighbour"))
	r.drop("neighbour", "uid = nobody\nhttp = 127.0.0.1:0\nchdir = DIR/other\nwsgi-file = DIR/other/hello.py\n")
	app := strings.NewReplacer("HOSTPORT", port, "NEIGHBOUR", neighbour, "EMPERORLOG", r.dir+"/log/neighbour.log").Replace(probe)
	r.write("flask/app.py", app)
	r.drop("flask", "plugins = python3\nuid = www-data\nmaster = true\nprocesses = 2\nchdir = DIR/flask\nmodule = app:app\nhttp-socket = 127.0.0.1:0\nmemory-max = 300M\npids-max = 100\n")
	v := r.up("flask")
	r.up("neighbour")
	code, body := r.get(v.Listen[0], "/probe")
	if code != 200 {
		t.Fatalf("%d %s", code, body)
	}
	var s seen
	if err := json.Unmarshal([]byte(body), &s); err != nil {
		t.Fatal(err)
	}
	s.posture(t)
	s.surroundings(t, r)
	if host.hits() != 0 || s.Loopback == "connected" {
		t.Errorf("the vassal reached the host's 127.0.0.1: %s", s.Loopback)
	}
	// The negative control: the same probe outside.
	if out, err := exec.Command(testenv.SystemPython, "-c", "import socket;socket.create_connection(('127.0.0.1',"+port+"),2)").CombinedOutput(); err != nil {
		t.Errorf("the probe cannot connect outside either: %v %s", err, out)
	}
	s.limits(t, v.Cgroup, r)
}

// posture is what the kernel says of the process.
func (s *seen) posture(t *testing.T) {
	for key, want := range map[string]string{
		"CapInh": "0000000000000000", "CapPrm": "0000000000000000", "CapEff": "0000000000000000",
		"CapBnd": "0000000000000000", "CapAmb": "0000000000000000", "NoNewPrivs": "1", "Seccomp": "2",
		"Uid": "33\t33\t33\t33", "Gid": "33\t33\t33\t33",
	} {
		if got := s.Status[key]; got != want {
			t.Errorf("%s: %q, want %q", key, got, want)
		}
	}
	for _, g := range s.Groups {
		if g == 0 {
			t.Error("the vassal has group 0")
		}
	}
	for name, inside := range s.NS {
		outside, err := os.Readlink("/proc/self/ns/" + name)
		if err != nil {
			t.Fatal(err)
		}
		if inside == outside {
			t.Errorf("the %s namespace is the host's", name)
		}
	}
	for fd, target := range s.FDs {
		if n, _ := strconv.Atoi(fd); n > 2 && !strings.HasPrefix(target, "socket:") && !strings.HasPrefix(target, "/proc/") {
			t.Logf("descriptor %s of the app: %s", fd, target)
		}
	}
}

// surroundings is what it sees of others.
func (s *seen) surroundings(t *testing.T, r *realm) {
	if len(s.Pids) > 12 {
		t.Errorf("it sees %d processes, want its own few: %v", len(s.Pids), s.Pids)
	}
	for path, how := range s.Files {
		if how == "read" && path != "/proc/1/environ" {
			t.Errorf("it reads %s", path)
		}
	}
	for k := range s.Environ {
		if !slices.Contains([]string{"PATH", "HOME", "USER", "LOGNAME", "SHELL", "LANG", "LC_CTYPE"}, k) {
			t.Errorf("a variable that nobody gave it: %s", k)
		}
	}
	if s.Hostname != "flask" {
		t.Errorf("host name %q", s.Hostname)
	}
	for _, line := range s.Mounts {
		f := strings.Fields(line)
		at, opts := f[4], ","+f[5]+","
		if !strings.Contains(opts, ",nosuid,") {
			t.Errorf("%s is not nosuid: %s", at, line)
		}
		if !strings.Contains(opts, ",nodev,") && at != "/dev" && !strings.HasPrefix(at, "/dev/") {
			t.Errorf("%s is not nodev: %s", at, line)
		}
		if (at == "/usr" || strings.HasPrefix(at, "/usr/") || strings.HasPrefix(at, "/etc/")) && !strings.Contains(opts, ",ro,") {
			t.Errorf("%s is not read-only: %s", at, line)
		}
	}
	for _, name := range s.Root {
		if slices.Contains([]string{"boot", "root", "home", "mnt", "media"}, name) {
			t.Errorf("it sees /%s", name)
		}
	}
}

// limits reads what the kernel holds for the vassal, from outside.
func (s *seen) limits(t *testing.T, cgroup *string, r *realm) {
	if cgroup == nil {
		t.Fatal("status shows no cgroup")
	}
	v := r.status("flask")
	if v.MemoryMaxBytes == nil || *v.MemoryMaxBytes != 300<<20 {
		t.Errorf("memory_max_bytes %v, want 300M", v.MemoryMaxBytes)
	}
	if got := limitOf(t, *v.PID, "memory", "memory.limit_in_bytes", "memory.max"); got != strconv.Itoa(300<<20) {
		t.Errorf("the kernel's memory limit is %s, want %d", got, 300<<20)
	}
	if got := limitOf(t, *v.PID, "pids", "pids.max", "pids.max"); got != "100" {
		t.Errorf("the kernel's pids limit is %s, want 100", got)
	}
}

// limitOf finds the tightest value of a limit over the cgroups of pid.
func limitOf(t *testing.T, pid int, controller, v1, v2 string) string {
	t.Helper()
	b, err := os.ReadFile(fmt.Sprintf("/proc/%d/cgroup", pid))
	if err != nil {
		t.Fatal(err)
	}
	for line := range strings.Lines(string(b)) {
		f := strings.SplitN(strings.TrimSpace(line), ":", 3)
		root, file := "/sys/fs/cgroup/"+controller, v1
		switch {
		case slices.Contains(strings.Split(f[1], ","), controller):
		case f[1] == "" && !exists(root):
			root, file = "/sys/fs/cgroup", v2
		default:
			continue
		}
		for dir := f[2]; dir != "/"; dir = filepath.Dir(dir) {
			if b, err := os.ReadFile(filepath.Join(root, dir, file)); err == nil {
				if s := strings.TrimSpace(string(b)); s != "max" && !strings.HasPrefix(s, "92233720368547") {
					return s
				}
			}
		}
	}
	return "none"
}

func exists(p string) bool { _, err := os.Stat(p); return err == nil }

// TestDjangoTutorial: the file of uWSGI's Django tutorial as people have it,
// with comments after numbers and the socket in the project's directory,
// symlinked into the vassals' directory and behind the real nginx.
func TestDjangoTutorial(t *testing.T) {
	r := newRealm(t)
	testenv.Need(t, testenv.Nginx, testenv.Django)
	r.write("mysite/mysite/__init__.py", "")
	r.write("mysite/mysite/settings.py", "SECRET_KEY = 'x'\nROOT_URLCONF = 'mysite.urls'\nALLOWED_HOSTS = ['*']\nDEBUG = False\n")
	r.write("mysite/mysite/urls.py", "from django.http import HttpResponse\nfrom django.urls import path\nurlpatterns = [path('', lambda request: HttpResponse('It worked! ' + request.META['SERVER_NAME']))]\n")
	r.write("mysite/mysite/wsgi.py", "import os\nfrom django.core.wsgi import get_wsgi_application\nos.environ.setdefault('DJANGO_SETTINGS_MODULE', 'mysite.settings')\napplication = get_wsgi_application()\n")
	ini := r.write("mysite/mysite_uwsgi.ini", strings.ReplaceAll(`# mysite_uwsgi.ini file
[uwsgi]

# Django-related settings
# the base directory (full path)
chdir           = DIR/mysite
# Django's wsgi file
module          = mysite.wsgi

# process-related settings
# master
master          = true
# maximum number of worker processes
processes       = 3 ; one per core and one more
limit-as        = 128 # MB
# the socket (use the full path to be safe)
socket          = DIR/mysite/mysite.sock
chmod-socket    = 666
# clear environment on exit
vacuum          = true
`, "DIR", r.dir))
	// The project is a user's, as on every host: the file is a tenant's and runs
	// as its owner.
	for _, p := range []string{"mysite", "mysite/mysite_uwsgi.ini"} {
		if err := os.Lchown(filepath.Join(r.dir, p), 65534, 65534); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Symlink(ini, filepath.Join(r.etc, "mysite.ini")); err != nil {
		t.Fatal(err)
	}
	v := r.up("mysite")
	if p := problem(v, "trailing-text"); p == nil || p.Severity != "warning" {
		t.Errorf("no warning about the comments after numbers: %+v", v.Problems)
	}
	addr := nginx(t, r, "uwsgi_pass unix:"+v.Listen[0]+"; include /etc/nginx/uwsgi_params;")
	code, body := r.get(addr, "/")
	if code != 200 || !strings.HasPrefix(body, "It worked!") {
		t.Errorf("through nginx: %d %q", code, body)
	}
	r.liege("reload", "mysite", "--timeout", patience)
	if code, _ := r.get(addr, "/"); code != 200 {
		t.Errorf("through nginx after a reload: %d", code)
	}
}
