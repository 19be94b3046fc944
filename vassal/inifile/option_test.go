package inifile

import (
	"os"
	"os/exec"
	"regexp"
	"slices"
	"strings"
	"testing"

	"liege/vassal"
)

// TestTableHasEveryOption compares with the names that Debian 12's uWSGI with
// all plugins prints (testdata/uwsgi-options.txt), and that list with the
// program where it is installed.
func TestTableHasEveryOption(t *testing.T) {
	list, err := os.ReadFile("testdata/uwsgi-options.txt")
	if err != nil {
		t.Fatal(err)
	}
	names := strings.Fields(string(list))
	if len(names) < 1100 {
		t.Fatalf("only %d names", len(names))
	}
	for _, n := range names {
		if !Known(n) {
			t.Errorf("%s is missing", n)
		}
	}
	bin, err := exec.LookPath("uwsgi")
	if err != nil {
		t.Log("no uwsgi here: compared with the list only")
		return
	}
	// Plugins that need others loaded first, or that change the output.
	const plugins = "corerouter,http,fastrouter,rawrouter,sslrouter,python3,gevent_python3,asyncio_python3,tornado_python3,rack,fiber,rbthreads,psgi,lua,cgi,mono,carbon,webdav,xslt,tuntap,symcall,rrdtool,zergpool,forkptyrouter,pty,cheaper_busyness"
	args := []string{"--plugins-dir", "/usr/lib/uwsgi/plugins"}
	for p := range strings.SplitSeq(plugins, ",") {
		if _, err := os.Stat("/usr/lib/uwsgi/plugins/" + p + "_plugin.so"); err == nil {
			args = append(args, "--plugin", p)
		}
	}
	out, err := exec.Command(bin, append(args, "--help")...).Output()
	if err != nil {
		t.Fatalf("uwsgi --help: %v", err)
	}
	found := regexp.MustCompile(`(?m)^ +(?:-.\|)?--(\S+)`).FindAllStringSubmatch(string(out), -1)
	if len(found) < 700 {
		t.Fatalf("uwsgi --help shows only %d options", len(found))
	}
	for _, m := range found {
		if !Known(m[1]) {
			t.Errorf("uwsgi has %s, the table does not", m[1])
		}
	}
}

// TestTableIsWhole checks each row by itself and against the others.
func TestTableIsWhole(t *testing.T) {
	seen, shorts := map[string]string{}, map[string]string{}
	for _, o := range Options() {
		for _, n := range append(o.Alias(), o.Name) {
			if by, dup := seen[n]; dup {
				t.Errorf("%s stands in the rows %s and %s", n, by, o.Name)
			}
			seen[n] = o.Name
		}
		if by, dup := shorts[o.Short]; dup && o.Short != "" && o.Class == Works {
			t.Errorf("-%s stands for %s and %s", o.Short, by, o.Name)
		}
		shorts[o.Short] = o.Name
		if o.Doc == "" || o.Group == "" || o.Type == "" || o.Since == "" || !strings.HasSuffix(o.Doc, ".") {
			t.Errorf("%s: doc %q, group %q, type %q, since %q", o.Name, o.Doc, o.Group, o.Type, o.Since)
		}
		if (o.Class == Works) != (o.Effect == "") {
			t.Errorf("%s: class %q with effect %q", o.Name, o.Class, o.Effect)
		}
		if o.Serves != "" && o.Class != NotYet {
			t.Errorf("%s: class %q serves %q", o.Name, o.Class, o.Serves)
		}
		if (o.Type == Language) != isWord(o.Name) && o.Class == Works {
			t.Errorf("%s: type %q, but a word of the language: %v", o.Name, o.Type, isWord(o.Name))
		}
	}
}

// TestTenantsGetNothingPrivileged names what must never be safe for tenants.
func TestTenantsGetNothingPrivileged(t *testing.T) {
	for _, o := range Options() {
		// What the core runs has the vassal's rights and no others.
		phase := vassal.Phase(strings.TrimPrefix(o.Name, "hook-"))
		privileged := o.Type == Action && o.Class == Works && phase.Place() != vassal.AtCore ||
			strings.HasPrefix(o.Name, "exec-as-root") || strings.HasPrefix(o.Name, "mount-as") ||
			slices.Contains([]string{"add-gid", "selinux-context", "cap", "chroot", "cgroup", "setns", "dlopen"}, o.Name)
		if privileged && o.Tenant {
			t.Errorf("%s is marked safe for tenants", o.Name)
		}
	}
}

func TestNearest(t *testing.T) {
	for _, tt := range []struct{ key, want string }{
		{"process", "processes"}, {"proceses", "processes"}, {"virtaulenv", "virtualenv"}, {"wsgifile", "wsgi-file"},
		{"chmod_socket", "chmod-socket"}, {"memory-limit", ""}, {"name", ""}, {"kafka-ws-host", ""}, {"", ""}, {"sockets", "socket"},
		{"app", "module"}, {"pid", "pidfile"}, {"logfile", "logto"}, {"stdout_logfile", "logto"}, {"User", "uid"}, {"MASTER", "master"}, {"--WSGI_FILE", "wsgi-file"}, {"uid: www-data", "uid"}, {"a: b", ""}, {"hdi", ""}, {"cap", ""}, {"uidd", "uid"}, {"htp", "http"}, {"prg", ""},
	} {
		if got := Nearest(tt.key); got != tt.want {
			t.Errorf("Nearest(%q) = %q, want %q", tt.key, got, tt.want)
		}
	}
}

// TestElsewhere: what stands for an option is none itself, and the option works
// here or is there otherwise.
func TestElsewhere(t *testing.T) {
	for key, name := range elsewhere {
		if o, ok := Lookup(name); !ok || o.Class == NotYet || o.Class == Refused {
			t.Errorf("%s: %s cannot be meant", key, name)
		}
		if _, ok := Lookup(key); ok {
			t.Errorf("%s is an option", key)
		}
	}
}

func isWord(key string) bool {
	_, ok := languageWords()[key]
	return ok
}
