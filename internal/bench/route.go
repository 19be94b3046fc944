package main

import (
	"context"
	"fmt"
	"os/exec"
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

// routes: 100 rules that concern no request, against none.
func (b *bench) routes(ctx context.Context) error {
	addrs, err := freePorts(2)
	if err != nil {
		return err
	}
	app := "disable-logging = true\nwsgi-file = " + b.dir + "/app/app.py\n"
	with, err := b.serve("with-rules", addrs[0], 2, app+rules())
	if err != nil {
		return err
	}
	without, err := b.serve("without-rules", addrs[1], 2, app)
	if err != nil {
		return err
	}
	without.name = "no rules"
	return b.contest(ctx, "WSGI hello behind 100 routing rules that do not match", "/", with, without)
}

// proxying: a request sent on to nginx by a rule, against nginx's proxy_pass
// as it is and with connections that are used again.
func (b *bench) proxying(ctx context.Context) error {
	addrs, err := freePorts(4)
	if err != nil {
		return err
	}
	front, err := b.nginx("proxy-nginx", strings.NewReplacer("UPSTREAM", addrs[0], "PLAIN", addrs[1], "KEPT", addrs[2]).Replace(
		`upstream kept { server UPSTREAM; keepalive 64; keepalive_requests 1000000; }
server { listen UPSTREAM; location / { return 200 "Hello World"; } }
server { listen PLAIN; location / { proxy_pass http://UPSTREAM; } }
server { listen KEPT; location / { proxy_pass http://kept; proxy_http_version 1.1; proxy_set_header Connection ""; } }`))
	if err != nil {
		return err
	}
	ours, err := b.serve("proxy", addrs[3], 2, "disable-logging = true\nroute-run = http:"+addrs[0]+"\n")
	if err != nil {
		return err
	}
	return b.contest(ctx, "A request proxied to nginx", "/", ours, rival{"nginx", addrs[1], []*exec.Cmd{front}}, rival{"nginx keepalive", addrs[2], nil})
}
