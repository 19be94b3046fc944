package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"syscall"
	"time"
)

// cgi: a shell script that says hello, without an access log, beside uWSGI's
// CGI plugin and beside nginx before fcgiwrap; eight processes at once each.
func (b *bench) cgi(ctx context.Context) error {
	dir := filepath.Join(b.dir, "cgi")
	if err := errors.Join(os.MkdirAll(dir, 0o755),
		os.WriteFile(filepath.Join(dir, "hello.sh"), []byte("#!/bin/sh\nprintf 'Content-Type: text/plain\\n\\nhello\\n'\n"), 0o755)); err != nil {
		return err
	}
	var addrs [3]string
	for i := range addrs {
		var err error
		if addrs[i], err = freePort(); err != nil {
			return err
		}
	}
	write := func(name, text string) string {
		p := filepath.Join(b.dir, name)
		_ = os.WriteFile(p, []byte(text), 0o644) // whoever reads it says so
		return p
	}
	lines := "uid = nobody\ngid = nogroup\nprocesses = 4\nthreads = 2\nhttp-socket-modifier1 = 9\ndisable-logging = true\ncgi = /cgi-bin=" + dir + "\nhttp-socket = "
	sock := filepath.Join(b.dir, "fcgiwrap.sock")
	conf := fmt.Sprintf(`daemon off; worker_processes 2; pid %[1]s/cgi-nginx.pid; error_log %[1]s/cgi-nginx-error.log; user root;
events { worker_connections 512; }
http { access_log off; keepalive_requests 1000000;
client_body_temp_path %[1]s/t1; proxy_temp_path %[1]s/t2; fastcgi_temp_path %[1]s/t3; uwsgi_temp_path %[1]s/t4; scgi_temp_path %[1]s/t5;
server { listen %[2]s; location /cgi-bin/ { include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME %[3]s/hello.sh; fastcgi_pass unix:%[4]s; } } }
`, b.dir, addrs[2], dir, sock)
	s := &servers{}
	defer s.close()
	for _, c := range []*exec.Cmd{
		exec.Command(filepath.Join(b.bin, "liege"), "serve", write("cgi.ini", "[uwsgi]\n"+lines+addrs[0]+"\n")),
		exec.Command("/usr/bin/uwsgi", "--ini", write("ucgi.ini", "[uwsgi]\nplugins = cgi\nmaster = true\n"+lines+addrs[1]+"\n")),
		exec.Command("/usr/sbin/fcgiwrap", "-c", "8", "-s", "unix:"+sock),
		exec.Command("/usr/sbin/nginx", "-c", write("cgi-nginx.conf", conf), "-e", filepath.Join(b.dir, "cgi-nginx-error.log")),
	} {
		c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := c.Start(); err != nil {
			return err
		}
		s.end = append(s.end, func() {
			(&contender{cmd: c}).end()
			_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // fcgiwrap leaves its children
		})
	}
	time.Sleep(time.Second) // fcgiwrap has no word for being ready
	var got [3]series
	for _, addr := range addrs {
		if err := waitFor(ctx, "http://"+addr+"/cgi-bin/hello.sh"); err != nil {
			return err
		}
	}
	for range b.rounds {
		for i, addr := range addrs {
			n, err := b.wrk(ctx, "http://"+addr+"/cgi-bin/hello.sh")
			if err != nil {
				return err
			}
			got[i] = append(got[i], n)
		}
	}
	compare("A CGI script, 8 at once", "requests/s", got[0], got[1], "uWSGI", false)
	compare("A CGI script, 8 at once", "requests/s", got[0], got[2], "nginx+fcgiwrap", false)
	return nil
}
