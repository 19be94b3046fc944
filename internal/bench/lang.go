package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// rack: a Rack hello beside nginx before uWSGI's rack plugin, and beside Puma
// in cluster mode; two workers each, no access log.
// uWSGI's garbage collection after each request is switched off.
func (b *bench) rack(ctx context.Context) error {
	const app = "run lambda { |env| [200, {'Content-Type' => 'text/plain'}, ['Hello World']] }\n"
	return b.language(ctx, "Rack hello", "config.ru", app, "rack", func(file, addr string) []peer {
		return []peer{{"Puma", exec.Command("/usr/bin/puma", "-q", "-e", "production", "-w", "2", "-t", "1:1", "--preload", "-b", "tcp://"+addr, file)}}
	})
}

// psgi: a PSGI hello beside nginx before uWSGI's psgi plugin.
func (b *bench) psgi(ctx context.Context) error {
	const app = "sub { [200, ['Content-Type', 'text/plain'], ['Hello World']] }\n"
	return b.language(ctx, "PSGI hello", "app.psgi", app, "psgi", func(string, string) []peer { return nil })
}

// peer is a server that listens on one address.
type peer struct {
	name string
	cmd  *exec.Cmd
}

// language loads an app of one language in turn by Liege, by nginx with uWSGI,
// and by what others makes.
func (b *bench) language(ctx context.Context, title, name, app, option string, others func(file, addr string) []peer) error {
	dir := filepath.Join(b.dir, option)
	file, sock := filepath.Join(dir, name), filepath.Join(dir, "uwsgi.sock")
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(file, []byte(app), 0o644)); err != nil {
		return err
	}
	var addrs [3]string
	for i := range addrs {
		var err error
		if addrs[i], err = freePort(); err != nil {
			return err
		}
	}
	lines := fmt.Sprintf("uid = nobody\ngid = nogroup\nprocesses = 2\ndisable-logging = true\nchdir = %s\n%s = %s\n", dir, option, name)
	files := map[string]string{
		"liege.ini": "[uwsgi]\n" + lines + "http-socket = " + addrs[0] + "\n",
		"uwsgi.ini": "[uwsgi]\nmaster = true\nlisten = 100\nruby-gc-freq = 100000\nplugins = " + option + "\n" + lines + "chmod-socket = 666\nsocket = " + sock + "\n",
		"nginx.conf": strings.NewReplacer("DIR", dir, "ADDR", addrs[1], "USOCK", sock).Replace(`
daemon off; worker_processes 2; pid DIR/nginx.pid; error_log DIR/nginx-error.log;
events { worker_connections 512; }
http { access_log off; keepalive_requests 1000000;
client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
server { listen ADDR; location / { include /etc/nginx/uwsgi_params; uwsgi_pass unix:USOCK; } } }
`)}
	for name, text := range files {
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			return err
		}
	}
	if err := os.Chmod(dir, 0o777); err != nil { // uWSGI makes its socket as nobody
		return err
	}
	all := append([]peer{
		{"liege", exec.Command(filepath.Join(b.bin, "liege"), "serve", filepath.Join(dir, "liege.ini"))},
		{"nginx+uWSGI", exec.Command("/usr/sbin/nginx", "-c", filepath.Join(dir, "nginx.conf"), "-e", filepath.Join(dir, "nginx-error.log"))},
	}, others(file, addrs[2])...)
	s := &servers{}
	defer s.close()
	for _, p := range append([]peer{{"uWSGI", exec.Command("/usr/bin/uwsgi", "--ini", filepath.Join(dir, "uwsgi.ini"))}}, all...) {
		p.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
		if err := p.cmd.Start(); err != nil {
			return err
		}
		s.end = append(s.end, func() { (&contender{cmd: p.cmd}).end() })
	}
	got := make([]series, len(all))
	for i := range all {
		if err := waitFor(ctx, "http://"+addrs[i]+"/"); err != nil {
			return fmt.Errorf("%s: %w", all[i].name, err)
		}
	}
	for range b.rounds {
		for i := range all {
			n, err := b.wrk(ctx, "http://"+addrs[i]+"/")
			if err != nil {
				return err
			}
			got[i] = append(got[i], n)
		}
	}
	for i := 1; i < len(all); i++ {
		compare(title+", 2 workers, 32 keep-alive connections", "requests/s", got[0], got[i], all[i].name, false)
	}
	urls, names := make([]string, len(all)), make([]string, len(all))
	for i, p := range all {
		urls[i], names[i] = "http://"+addrs[i]+"/", p.name
	}
	return b.latencies(ctx, title, urls, names, got)
}
