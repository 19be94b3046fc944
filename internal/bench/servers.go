package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
)

// php: a PHP file that says hello, two processes, beside nginx before php-fpm
// with two children.
func (b *bench) php(ctx context.Context) error {
	dir := filepath.Join(b.dir, "php")
	fpms, err := filepath.Glob("/usr/sbin/php-fpm*")
	if err != nil || len(fpms) == 0 {
		return errors.New("php-fpm is not installed")
	}
	addrs, err := freePorts(2)
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("[global]\nerror_log = %[1]s/fpm.log\ndaemonize = no\n[www]\nuser = nobody\ngroup = nogroup\nlisten = %[1]s/fpm.sock\nlisten.mode = 0666\n"+
		"pm = static\npm.max_children = 2\n", dir)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/index.php", []byte("<?php echo 'Hello World';"), 0o644),
		os.WriteFile(dir+"/fpm.conf", []byte(conf), 0o644)); err != nil {
		return err
	}
	front, err := b.nginx("php-nginx", strings.NewReplacer("ADDR", addrs[1], "ROOT", dir).Replace(
		`server { listen ADDR; location / { include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME ROOT/index.php; fastcgi_pass unix:ROOT/fpm.sock; } }`))
	if err != nil {
		return err
	}
	ours, err := b.serve("php-ours", addrs[0], 2, "disable-logging = true\nphp-docroot = "+dir+"\n")
	if err != nil {
		return err
	}
	return b.contest(ctx, "PHP hello, 2 processes", "/", ours,
		rival{"nginx+php-fpm", addrs[1], []*exec.Cmd{exec.Command(fpms[0], "--nodaemonize", "--fpm-config", dir+"/fpm.conf"), front}})
}

// node: a node program by exec, beside the same behind nginx.
func (b *bench) node(ctx context.Context) error {
	dir := filepath.Join(b.dir, "node")
	text := "require('http').createServer((q, r) => r.end('Hello World')).listen(process.env.LIEGE_SOCKET || process.env.PORT);\n"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/server.js", []byte(text), 0o644)); err != nil {
		return err
	}
	addrs, err := freePorts(4)
	if err != nil {
		return err
	}
	var cmds []*exec.Cmd
	for _, a := range addrs[2:] {
		_, port, _ := strings.Cut(a, ":")
		c := exec.Command("node", dir+"/server.js")
		c.Env = append(os.Environ(), "PORT="+port)
		cmds = append(cmds, c)
	}
	front, err := b.nginx("node-nginx", strings.NewReplacer("ADDR", addrs[1], "ONE", addrs[2], "TWO", addrs[3]).Replace(
		`upstream kept { least_conn; server ONE; server TWO; keepalive 64; keepalive_requests 1000000; }
server { listen ADDR; location / { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; } }`))
	if err != nil {
		return err
	}
	ours, err := b.serve("node-ours", addrs[0], 2, "disable-logging = true\nexec = node "+dir+"/server.js\n")
	if err != nil {
		return err
	}
	return b.contest(ctx, "node hello by exec, 2 processes", "/", ours, rival{"nginx keepalive", addrs[1], append(cmds, front)})
}
