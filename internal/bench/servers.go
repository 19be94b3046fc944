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
	addr, err := freePort()
	if err != nil {
		return err
	}
	conf := fmt.Sprintf("[global]\nerror_log = %[1]s/fpm.log\ndaemonize = no\n[www]\nuser = nobody\ngroup = nogroup\nlisten = %[1]s/fpm.sock\nlisten.mode = 0666\n"+
		"pm = static\npm.max_children = 2\n", dir)
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/index.php", []byte("<?php echo 'Hello World';"), 0o644),
		os.WriteFile(dir+"/fpm.conf", []byte(conf), 0o644)); err != nil {
		return err
	}
	endFPM, err := b.startProgram("php-fpm", exec.Command(fpms[0], "--nodaemonize", "--fpm-config", dir+"/fpm.conf"))
	if err != nil {
		return err
	}
	defer endFPM()
	end, err := b.startNginx(ctx, "nginx-php", strings.NewReplacer("ADDR", addr, "ROOT", dir).Replace(
		`server { listen ADDR; location / { include /etc/nginx/fastcgi_params; fastcgi_param SCRIPT_FILENAME ROOT/index.php; fastcgi_pass unix:ROOT/fpm.sock; } }`), addr)
	if err != nil {
		return err
	}
	defer end()
	ours, end2, err := b.startServe(ctx, "php-ours", "php-docroot = "+dir+"\n")
	if err != nil {
		return err
	}
	defer end2()
	return b.duel(ctx, "PHP hello, 2 processes", ours, addr, "nginx+php-fpm")
}

// node: a node program by exec, beside the same behind nginx.
func (b *bench) node(ctx context.Context) error {
	dir := filepath.Join(b.dir, "node")
	text := "require('http').createServer((q, r) => r.end('Hello World')).listen(process.env.LIEGE_SOCKET || process.env.PORT);\n"
	if err := errors.Join(os.Mkdir(dir, 0o755), os.WriteFile(dir+"/server.js", []byte(text), 0o644)); err != nil {
		return err
	}
	var addr [3]string // of nginx and of two programs behind it
	for i := range addr {
		var err error
		if addr[i], err = freePort(); err != nil {
			return err
		}
	}
	for i, a := range addr[1:] {
		_, port, _ := strings.Cut(a, ":")
		c := exec.Command("node", dir+"/server.js")
		c.Env = append(os.Environ(), "PORT="+port)
		end, err := b.startProgram(fmt.Sprintf("node%d", i), c)
		if err != nil {
			return err
		}
		defer end()
		if err := waitFor(ctx, "http://"+a+"/"); err != nil {
			return err
		}
	}
	end, err := b.startNginx(ctx, "nginx-node", strings.NewReplacer("ADDR", addr[0], "ONE", addr[1], "TWO", addr[2]).Replace(
		`upstream kept { least_conn; server ONE; server TWO; keepalive 64; keepalive_requests 1000000; }
server { listen ADDR; location / { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; } }`), addr[0])
	if err != nil {
		return err
	}
	defer end()
	ours, end2, err := b.startServe(ctx, "node-ours", "exec = node "+dir+"/server.js\n")
	if err != nil {
		return err
	}
	defer end2()
	return b.duel(ctx, "node hello by exec, 2 processes", ours, addr[0], "nginx keepalive")
}
