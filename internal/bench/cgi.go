package main

import (
	"context"
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// cgi: a shell script that says hello, without an access log, beside uWSGI's
// CGI plugin and beside nginx before fcgiwrap; eight processes at once each.
func (b *bench) cgi(ctx context.Context) error {
	dir := filepath.Join(b.dir, "cgi")
	if err := errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "hello.sh"), []byte("#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nhello\\n'\n"), 0o755)); err != nil {
		return err
	}
	addrs, err := freePorts(3)
	if err != nil {
		return err
	}
	lines := "threads = 2\nhttp-socket-modifier1 = 9\ndisable-logging = true\ncgi = /cgi-bin=" + dir + "\n"
	ours, err := b.serve("cgi-ours", addrs[0], 4, lines)
	if err != nil {
		return err
	}
	ini := filepath.Join(b.dir, "cgi-uwsgi.ini")
	text := "[uwsgi]\nplugins = cgi\nmaster = true\nuid = nobody\ngid = nogroup\nprocesses = 4\nhttp-socket = " + addrs[1] + "\n" + lines
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		return err
	}
	sock := filepath.Join(b.dir, "fcgiwrap.sock")
	front, err := b.nginx("cgi-nginx", strings.NewReplacer("ADDR", addrs[2], "ROOT", dir, "SOCK", sock).Replace(
		"server { listen ADDR; location /cgi-bin/ { include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME ROOT/hello.sh; fastcgi_pass unix:SOCK; } }"))
	if err != nil {
		return err
	}
	return b.contest(ctx, "A CGI script, 8 at once", "/cgi-bin/hello.sh", ours,
		rival{"uWSGI", addrs[1], []*exec.Cmd{exec.Command("/usr/bin/uwsgi", "--ini", ini)}},
		rival{"nginx+fcgiwrap", addrs[2], []*exec.Cmd{exec.Command("/usr/sbin/fcgiwrap", "-c", "8", "-s", "unix:"+sock), front}})
}
