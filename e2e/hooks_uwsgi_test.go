package e2e

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"syscall"
	"testing"

	"github.com/google/go-cmp/cmp"

	"liege/internal/testenv"
)

// sharedHooks are the hooks of all phases that a vassal has in uWSGI without
// an Emperor of it, in the opposite order, with those forms that uWSGI has too.
// Each says its name, its user and, in the phases of root that may mount,
// whether dir is mounted.
//
// Left out: call-PHASE, whose whole line uWSGI takes for a name; mount- and
// umount- before the root is entered, which are another root's here; and the
// phases of the Emperor.
func sharedHooks(dir string) string {
	var b strings.Builder
	mounted := " $(grep -c " + dir + " /proc/self/mounts)"
	for _, x := range []struct{ phase, more, mount, umount string }{
		{"accepting1-once", "", "", ""}, {"accepting1", "", "", ""}, {"accepting-once", "", "", ""}, {"accepting", "", "", ""}, {"as-mule", "", "", ""},
		{"post-fork", "", "", ""}, {"master-start", "", "", ""}, {"as-user-atexit", "", "", ""}, {"post-app", "", "", ""}, {"pre-app", "", "", ""}, {"as-user", "", "", ""},
		{"as-root", mounted, dir, dir}, {"post-jail", mounted, "", ""}, {"in-jail", mounted, dir, ""}, {"pre-jail", "", "", ""}, {"asap", "", "", ""},
	} {
		// Only exec- and umount- of as-root, in this order, would fail.
		switch x.phase {
		case "accepting1-once", "accepting1", "accepting-once", "accepting", "as-mule", "post-fork", "master-start":
		default:
			b.WriteString("exec-" + x.phase + " = echo @exec-" + x.phase + " $(id -u)" + x.more + "\n")
		}
		if x.umount != "" {
			b.WriteString("umount-" + x.phase + " = " + x.umount + "\n")
		}
		if x.mount != "" {
			b.WriteString("mount-" + x.phase + " = tmpfs none " + x.mount + "\n")
		}
		b.WriteString("hook-" + x.phase + " = exec:echo @hook-" + x.phase + " $(id -u)" + x.more + "\n")
	}
	return b.String()
}

// TestHooksLikeUWSGI: uWSGI runs the same file's hooks in the same order, as
// the same users; where it does not, it is what docs/hooks.md says of it.
func TestHooksLikeUWSGI(t *testing.T) {
	testenv.Need(t, testenv.Uwsgi)
	r := newRealm(t)
	r.write("app/app.py", hello("served"))
	point := filepath.Join(r.dir, "app", "mounted")
	if err := os.Mkdir(point, 0o755); err != nil {
		t.Fatal(err)
	}
	lines := "plugins = python3\nmaster = true\nprocesses = 1\nmules = 1\nuid = nobody\ngid = nogroup\nchdir = DIR/app\nwsgi-file = DIR/app/app.py\n"
	hooks := sharedHooks(point)
	r.drop("all", lines+"http-socket = 127.0.0.1:0\nunshare = ipc\n"+hooks)
	r.up("all")
	r.until("the mule's hook", func() bool { return slices.ContainsFunc(r.marks("all"), of("as-mule")) })
	r.liege("stop", "all")
	r.until("the last hook", func() bool { return slices.ContainsFunc(r.marks("all"), of("exec-as-user-atexit")) })
	ours := r.marks("all")
	// 16 phases, 9 of them in two forms.
	if len(ours) != 16+9 {
		t.Errorf("%d marks: %v", len(ours), ours)
	}

	// What uWSGI runs again for a reload, before the application: without root's
	// rights, so that a mount would end it.
	again := []string{"hook-asap 65534", "exec-asap 65534", "hook-in-jail 65534 0", "exec-in-jail 65534 0"}
	unmounted := regexp.MustCompile(`(?m)^u?mount-.*\n`).ReplaceAllString(hooks, "")
	for _, c := range []struct {
		name, lines string
		reload      bool
		want        []string
	}{
		{"with a jail", "unshare = ipc\n" + hooks, false, ours},
		{"post-jail comes only with a jail", hooks, false, slices.DeleteFunc(slices.Clone(ours), of("post-jail"))},
		{"a reload", "unshare = ipc\n" + unmounted, true, slices.Concat(ours, again, ours[slices.IndexFunc(ours, of("hook-pre-app")):])},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := r.in(t)
			theirs := r.uwsgi("[uwsgi]\n"+strings.ReplaceAll(lines, "DIR", r.dir)+c.lines, c.reload)
			// A mule is forked beside the workers, and the master goes on beside them: these
			// hooks may come at any time after that.
			beside := func(m string) bool { return of("as-mule")(m) || of("master-start")(m) }
			if one, loaded := slices.IndexFunc(theirs, beside), slices.IndexFunc(theirs, of("post-app")); one < loaded || loaded < 0 {
				t.Errorf("the first hook of the mule and the master is %d, that of the loaded application %d", one, loaded)
			}
			alike := func(marks []string) (out []string) {
				for _, m := range marks {
					if f := strings.Fields(m); c.reload {
						m = f[0] + " " + f[1]
					}
					if !beside(m) {
						out = append(out, m)
					}
				}
				return out
			}
			if d := cmp.Diff(alike(c.want), alike(theirs)); d != "" {
				t.Errorf("-Liege +uWSGI:\n%s", d)
			}
		})
	}
}

// of tells the marks whose name contains a text.
func of(name string) func(string) bool {
	return func(s string) bool { return strings.Contains(s, name+" ") }
}

// uwsgi has uWSGI run a file, reload if that is asked for, and end, and
// returns the marks of its hooks.
func (r *realm) uwsgi(text string, reload bool) (marks []string) {
	r.t.Helper()
	sock := filepath.Join(r.dir, "open", "uwsgi.sock") // made by nobody
	if err := errors.Join(os.MkdirAll(filepath.Dir(sock), 0o777), os.Chmod(filepath.Dir(sock), 0o777)); err != nil {
		r.t.Fatal(err)
	}
	out, err := os.Create(filepath.Join(r.t.TempDir(), "log"))
	if err != nil {
		r.t.Fatal(err)
	}
	defer out.Close()
	defer func() {
		if b, _ := os.ReadFile(out.Name()); r.t.Failed() {
			r.t.Logf("%s", b)
		}
	}()
	said := func() string {
		b, _ := os.ReadFile(out.Name())
		return string(b)
	}
	cmd := exec.Command("uwsgi", "--ini", r.write("uwsgi.ini", text+"http-socket = "+sock+"\n"))
	cmd.Stdout, cmd.Stderr = out, out
	cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true, Unshareflags: syscall.CLONE_NEWNS} // its mounts go with it
	if err := cmd.Start(); err != nil {
		r.t.Fatal(err)
	}
	ended := make(chan error, 1)
	go func() { ended <- cmd.Wait() }()
	defer func() { _ = syscall.Kill(-cmd.Process.Pid, syscall.SIGKILL) }()
	serves := func(times int) {
		r.t.Helper()
		r.until("uWSGI serves", func() bool {
			select {
			case err := <-ended:
				r.t.Fatalf("uWSGI ended: %v", err)
			default:
			}
			s := said()
			return strings.Count(s, "@hook-accepting1-once ") == 2*times && strings.Count(s, "\n@hook-as-mule ") == times
		})
	}
	serves(1)
	if reload {
		// One that has not yet served may overlook the signal.
		if code, _ := r.get(sock, "/"); code != 200 {
			r.t.Errorf("uWSGI answers %d", code)
		}
		_ = cmd.Process.Signal(syscall.SIGHUP)
		serves(2)
	}
	_ = cmd.Process.Signal(syscall.SIGINT)
	<-ended
	for _, m := range regexp.MustCompile(`(?m)^@(.*)$`).FindAllStringSubmatch(said(), -1) {
		marks = append(marks, m[1])
	}
	return marks
}
