package e2e

import (
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// counter is a listener on the host's loopback that counts who gets through.
type counter struct{ n atomic.Int64 }

func (c *counter) hits() int64 { return c.n.Load() }

// hostListener listens on the host's 127.0.0.1 until the test ends.
func hostListener(t *testing.T) (*counter, string) {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	c := &counter{}
	done := make(chan struct{})
	go func() {
		defer close(done)
		for {
			conn, err := ln.Accept()
			if err != nil {
				return
			}
			c.n.Add(1)
			conn.Close()
		}
	}()
	t.Cleanup(func() { ln.Close(); <-done })
	_, port, _ := net.SplitHostPort(ln.Addr().String())
	return c, port
}

// nginx starts the real one before a location's directives and returns its
// address, a unix socket.
func nginx(t *testing.T, r *realm, location string) string {
	t.Helper()
	sock := filepath.Join(r.dir, "nginx.sock")
	conf := r.write("nginx/nginx.conf", strings.NewReplacer("DIR", r.dir, "SOCK", sock, "LOCATION", location).Replace(`
daemon off;
user www-data;
worker_processes 1;
pid DIR/nginx/pid;
error_log DIR/nginx/error.log;
events { worker_connections 128; }
http {
	access_log off;
	client_body_temp_path DIR/nginx/body;
	proxy_temp_path DIR/nginx/proxy;
	fastcgi_temp_path DIR/nginx/fastcgi;
	uwsgi_temp_path DIR/nginx/uwsgi;
	scgi_temp_path DIR/nginx/scgi;
	server {
		listen unix:SOCK;
		location / { LOCATION }
	}
}
`))
	cmd := exec.Command("/usr/sbin/nginx", "-c", conf, "-e", filepath.Join(r.dir, "nginx/error.log"))
	cmd.Stderr = os.Stderr
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cmd.Process.Signal(syscall.SIGTERM)
		cmd.Wait()
	})
	r.until("nginx listens", func() bool {
		c, err := net.DialTimeout("unix", sock, time.Second)
		if err == nil {
			c.Close()
		}
		return err == nil
	})
	return sock
}
