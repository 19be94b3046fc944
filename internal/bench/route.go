package main

import (
	"context"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// rules are 100 routing rules of the kinds that files have, none of which
// concerns a request for /.
func rules() string {
	var t strings.Builder
	for i := range 20 {
		fmt.Fprintf(&t, "route = ^/section%[1]d/ redirect:https://example.org/$1\nroute = \\.x%[1]d$ return:403\n"+
			"route-if = equal:${HTTP_HOST};site%[1]d.example.org addvar:SITE=%[1]d\nroute-user-agent = (?i)bot%[1]d/[0-9]+ break:403\n"+
			"route-if = regexp:${QUERY_STRING};(^|&)id%[1]d=([0-9]+) rewrite:/item/$2\n", i)
	}
	return t.String()
}

// startServe starts liege serve with a file of the given lines.
func (b *bench) startServe(ctx context.Context, name, lines string) (addr string, end func(), err error) {
	if addr, err = freePort(); err != nil {
		return "", nil, err
	}
	ini := filepath.Join(b.dir, name+".ini")
	text := fmt.Sprintf("[uwsgi]\nuid = nobody\ngid = nogroup\nprocesses = 2\nchdir = %s/app\nhttp-socket = %s\ndisable-logging = true\n%s", b.dir, addr, lines)
	if err := os.WriteFile(ini, []byte(text), 0o644); err != nil {
		return "", nil, err
	}
	end, err = b.startProgram(name, exec.Command(filepath.Join(b.bin, "liege"), "serve", ini))
	if err != nil {
		return "", nil, err
	}
	if err := waitFor(ctx, "http://"+addr+"/"); err != nil {
		end()
		return "", nil, err
	}
	return addr, end, nil
}

func (b *bench) startProgram(name string, c *exec.Cmd) (end func(), err error) {
	log, err := os.Create(filepath.Join(b.dir, name+".log"))
	if err != nil {
		return nil, err
	}
	defer log.Close()
	c.Stdout, c.Stderr = log, log
	if err := c.Start(); err != nil {
		return nil, err
	}
	return func() { (&contender{cmd: c}).end() }, nil
}

// startNginx starts nginx with the given server blocks.
func (b *bench) startNginx(ctx context.Context, name, http string, waits ...string) (end func(), err error) {
	dir := filepath.Join(b.dir, name)
	if err := os.Mkdir(dir, 0o755); err != nil {
		return nil, err
	}
	conf := filepath.Join(dir, "nginx.conf")
	text := strings.NewReplacer("DIR", dir, "HTTP", http).Replace(`
daemon off; worker_processes 2; pid DIR/pid; error_log DIR/error.log;
events { worker_connections 512; }
http { access_log off; sendfile on; tcp_nopush on; keepalive_requests 1000000;
client_body_temp_path DIR/t1; proxy_temp_path DIR/t2; fastcgi_temp_path DIR/t3; uwsgi_temp_path DIR/t4; scgi_temp_path DIR/t5;
HTTP }
`)
	if err := os.WriteFile(conf, []byte(text), 0o644); err != nil {
		return nil, err
	}
	end, err = b.startProgram(name, exec.Command("/usr/sbin/nginx", "-c", conf, "-e", filepath.Join(dir, "error.log")))
	if err != nil {
		return nil, err
	}
	for _, addr := range waits {
		if err := waitFor(ctx, "http://"+addr+"/"); err != nil {
			end()
			return nil, err
		}
	}
	return end, nil
}

// duel loads two addresses in turn.
func (b *bench) duel(ctx context.Context, title, ours, peers, peer string) error {
	var a, p series
	for range b.rounds {
		for _, c := range []struct {
			addr string
			to   *series
		}{{ours, &a}, {peers, &p}} {
			n, err := b.wrk(ctx, "http://"+c.addr+"/")
			if err != nil {
				return err
			}
			*c.to = append(*c.to, n)
		}
	}
	compare(title, "requests/s", a, p, peer, false)
	return b.latencies(ctx, title, []string{"http://" + ours + "/", "http://" + peers + "/"}, []string{"liege", peer}, []series{a, p})
}

// routes: 100 rules that concern no request, against none.
func (b *bench) routes(ctx context.Context) error {
	app := "wsgi-file = " + b.dir + "/app/app.py\n"
	with, end, err := b.startServe(ctx, "with-rules", app+rules())
	if err != nil {
		return err
	}
	defer end()
	without, end2, err := b.startServe(ctx, "without-rules", app)
	if err != nil {
		return err
	}
	defer end2()
	return b.duel(ctx, "WSGI hello behind 100 routing rules that do not match", with, without, "no rules")
}

// proxying: a request sent on to nginx by a rule, against nginx's proxy_pass
// as it is and with connections that are used again.
func (b *bench) proxying(ctx context.Context) error {
	var addr [3]string
	for i := range addr {
		var err error
		if addr[i], err = freePort(); err != nil {
			return err
		}
	}
	end, err := b.startNginx(ctx, "nginx-proxy", strings.NewReplacer("UPSTREAM", addr[0], "PLAIN", addr[1], "KEPT", addr[2]).Replace(
		`upstream kept { server UPSTREAM; keepalive 64; keepalive_requests 1000000; }
server { listen UPSTREAM; location / { return 200 "Hello World"; } }
server { listen PLAIN; location / { proxy_pass http://UPSTREAM; } }
server { listen KEPT; location / { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; } }`), addr[:]...)
	if err != nil {
		return err
	}
	defer end()
	ours, end2, err := b.startServe(ctx, "proxy", "route-run = http:"+addr[0]+"\n")
	if err != nil {
		return err
	}
	defer end2()
	if err := b.duel(ctx, "A request proxied to nginx", ours, addr[1], "nginx"); err != nil {
		return err
	}
	return b.duel(ctx, "The same, nginx keeping its connections", ours, addr[2], "nginx keepalive")
}
