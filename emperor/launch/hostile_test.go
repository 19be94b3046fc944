package launch

import (
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"
)

// Root makes no file where only root could: neither for a tenant's file that
// names one, nor for the operator's whose path the tenant leads elsewhere
// (CVE-2016-1247).
func TestLogtoOfTenant(t *testing.T) {
	r := newRig(t)
	r.site()
	r.write("roots/.keep", "")
	home := filepath.Join(r.dir, "sock")
	if err := errors.Join(os.Symlink(r.dir+"/roots", home+"/d"), os.Lchown(home+"/d", nobody, nobody)); err != nil {
		t.Fatal(err)
	}
	const site = "[vassal]\nchdir = DIR/sock\ncheck-static = DIR/www\nstatic-index = index.html\n"
	for _, tt := range []struct {
		name, line string
		uid        int
		made       bool
	}{
		{"tenant", "logto = DIR/roots/tenant\npidfile = DIR/roots/tenant.pid\n", nobody, false},
		{"led", "uid = nobody\nlogto = DIR/sock/d/led\npidfile = DIR/sock/d/led.pid\n", 0, false},
		{"relative", "uid = nobody\nchdir = DIR/sock/d\nlogto = relative\npidfile = relative.pid\n", 0, false},
		{"operator", "uid = nobody\nlogto = DIR/roots/operator\n", 0, true}, // the control
	} {
		t.Run(tt.name, func(t *testing.T) {
			in, _ := r.start(r.launcher(r.file(tt.name, "", 0).Name), r.file(tt.name, site+tt.line+"http-socket = DIR/sock/"+tt.name+".sock\n", tt.uid), 1)
			r.ready(in)
			for _, f := range []string{tt.name, tt.name + ".pid"} {
				if _, err := os.Lstat(filepath.Join(r.dir, "roots", f)); (err == nil) != (tt.made && f == tt.name) {
					t.Errorf("%s in root's directory: %v", f, err)
				}
			}
		})
	}
}

// Without an app's directory relative paths begin beside the file, and not at /.
func TestRelativeWithoutDirectory(t *testing.T) {
	r := newRig(t)
	r.site()
	r.write("logs/.keep", "")
	in, p := r.start(r.launcher("bare"), r.file("bare", "[vassal]\nuid = nobody\ncheck-static = DIR/www\nhttp-socket = DIR/sock/bare.sock\nlogto = logs/bare.log\npidfile = bare.pid\ntouch-reload = touched\n", 0), 1)
	r.ready(in)
	for _, f := range []string{"logs/bare.log", "bare.pid"} {
		if _, err := os.Lstat(filepath.Join(r.dir, f)); err != nil {
			t.Error(err)
		}
	}
	r.write("touched", "")
	if !p.Changed(t.Context()) {
		t.Error("the file beside it is not watched")
	}
}

// A user's file learns nothing, by being reloaded, of files that the user cannot
// see.
func TestTouchOfTenant(t *testing.T) {
	r := newRig(t)
	r.site()
	hidden := r.write("hidden/f", "")
	if err := os.Chmod(filepath.Dir(hidden), 0o700); err != nil {
		t.Fatal(err)
	}
	own := r.write("sock/own", "")
	text := "[vassal]\nchdir = DIR/sock\nhttp-socket = DIR/sock/t.sock\ncheck-static = DIR/www\ntouch-reload = DIR/hidden/f\ntouch-reload = own\n"
	p := r.prepare(r.launcher("touch"), r.file("touch", text, nobody))
	later := time.Now().Add(time.Hour)
	if err := os.Chtimes(hidden, later, later); err != nil {
		t.Fatal(err)
	}
	if p.Changed(t.Context()) {
		t.Error("a touch of a file that the user cannot see is seen")
	}
	if err := os.Chtimes(own, later, later); err != nil { // the control
		t.Fatal(err)
	}
	if !p.Changed(t.Context()) {
		t.Error("a touch of its own file is not seen")
	}
}
