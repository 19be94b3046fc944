package main

import (
	"context"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// rival is a server in a contest.
type rival struct {
	name string
	addr string      // host:port
	cmds []*exec.Cmd // what serves there, in the order of its start; none: it runs already
}

// contest loads servers in turn, round by round, and compares the first with
// each of the others: in requests a second over 32 kept connections, then in
// the 99th percentile of the time to an answer at half load.
func (b *bench) contest(ctx context.Context, title, path string, all ...rival) error {
	end, err := b.up(ctx, path, all)
	defer end()
	if err != nil {
		return err
	}
	got := make([]series, len(all))
	for range b.rounds {
		for i, r := range all {
			n, err := b.wrk(ctx, "http://"+r.addr+path)
			if err != nil {
				return fmt.Errorf("%s: %w", r.name, err)
			}
			got[i] = append(got[i], n)
		}
	}
	for i, r := range all[1:] {
		compare(title, "requests/s", got[0], got[i+1], r.name, false)
	}
	return b.latencies(ctx, title, path, all, got)
}

// up starts what is to be started and waits until each of them answers. end is
// never nil.
func (b *bench) up(ctx context.Context, path string, all []rival) (end func(), err error) {
	var ends []func()
	end = func() {
		for _, f := range ends {
			f()
		}
	}
	for _, r := range all {
		for i, c := range r.cmds {
			stop, err := b.startProgram(strings.NewReplacer(" ", "-", "(", "", ")", "").Replace(fmt.Sprintf("%s-%d-%s", r.name, i, r.addr)), c)
			if err != nil {
				return end, err
			}
			ends = append(ends, stop)
		}
	}
	for _, r := range all {
		if err := waitFor(ctx, "http://"+r.addr+path); err != nil {
			return end, fmt.Errorf("%s: %w", r.name, err)
		}
	}
	return end, nil
}

// startProgram starts c in a process group of its own, which end ends. What it
// prints is in NAME.log.
func (b *bench) startProgram(name string, c *exec.Cmd) (end func(), err error) {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	c.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := c.Start(); err != nil {
		return nil, err
	}
	return func() {
		(&contender{cmd: c}).end()
		_ = syscall.Kill(-c.Process.Pid, syscall.SIGKILL) // children that their parent left, such as fcgiwrap's
	}, nil
}

// freePorts are n different addresses.
func freePorts(n int) ([]string, error) {
	out := make([]string, n)
	for i := range out {
		ln, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			return nil, err
		}
		defer ln.Close() // not before all are chosen
		out[i] = ln.Addr().String()
	}
	return out, nil
}

// serve is liege serve over a file of the given lines, on addr.
func (b *bench) serve(name, addr string, processes int, lines string) (rival, error) {
	ini := filepath.Join(b.dir, name+".ini")
	text := fmt.Sprintf("[uwsgi]\nuid = nobody\ngid = nogroup\nprocesses = %d\nhttp-socket = %s\n%s", processes, addr, lines)
	return rival{"liege", addr, []*exec.Cmd{exec.Command(filepath.Join(b.bin, "liege"), "serve", ini)}}, os.WriteFile(ini, []byte(text), 0o644)
}

// nginx is nginx with the given server blocks, without an access log where
// they name none. Its workers are root's, who alone reaches fcgiwrap's socket.
func (b *bench) nginx(name, servers string) (*exec.Cmd, error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("DIR", dir, "SERVERS", servers).Replace(`
daemon off; user root; worker_processes 2; pid DIR/pid; error_log DIR/error.log;
events { worker_connections 512; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
SERVERS }
`)
	return exec.Command("/usr/sbin/nginx", "-c", conf, "-e", filepath.Join(dir, "error.log")), os.WriteFile(conf, []byte(text), 0o644)
}
