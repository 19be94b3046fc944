package route

import (
	"cmp"
	"strconv"
	"strings"

	"liege/serve/proxy"
	"liege/vassal/route"
)

// httpAction sends the request on over HTTP. raw keeps what the client asks
// for about the connection: an upgrade.
func httpAction(raw bool) func(*rl) (act, error) {
	return func(r *rl) (act, error) {
		u := route.ParseUpstream(r.ActionArg)
		addr, err1 := r.template(u.Address)
		host, err2 := r.template(u.Host)
		target, err3 := r.template(u.Target)
		client, url := r.h.cfg.Proxy, r.url("")
		return func(x *run) verdict {
			to := proxy.Target{Address: addr.Expand(x), Host: host.Expand(x), URI: target.Expand(url(x)), Upgrade: raw}
			x.ending = func(x *run) error { return client.HTTP(x.ctx, x.r, x, to) }
			return stop
		}, cmp.Or(err1, err2, err3)
	}
}

// toAddress is an action of which only the address is a template.
func toAddress(r *rl, arg string, serve func(x *run, addr string) error) (act, error) {
	t, err := r.template(arg)
	return func(x *run) verdict {
		addr := t.Expand(x)
		x.ending = func(x *run) error { return serve(x, addr) }
		return stop
	}, err
}

func connectAction(r *rl) (act, error) {
	return toAddress(r, route.ParseUpstream(r.ActionArg).Address, func(x *run, addr string) error {
		return x.h.cfg.Proxy.Connect(x.ctx, x.r, x, addr)
	})
}

// uwsgiAction sends the request on over the uwsgi protocol.
func uwsgiAction(r *rl) (act, error) {
	f := strings.SplitN(r.ActionArg, ",", 4)
	var modifier [2]byte
	for i := range modifier {
		if len(f) > i+1 {
			n, err := strconv.ParseUint(cmp.Or(f[i+1], "0"), 10, 8)
			if err != nil {
				return nil, err
			}
			modifier[i] = byte(n)
		}
	}
	if f[0] == "" {
		return hereAction(r, f, modifier[0])
	}
	return toAddress(r, f[0], func(x *run, addr string) error {
		if len(f) == 4 {
			x.set("UWSGI_APPID", f[3])
		}
		return x.h.cfg.Proxy.UWSGI(x.ctx, x.r, x, addr, modifier[0], modifier[1])
	})
}

// hereAction is uwsgi: without an address, which only chooses who answers. As in
// uWSGI the chain ends and the request goes on.
func hereAction(r *rl, f []string, modifier byte) (act, error) {
	if len(f) < 4 {
		return func(x *run) verdict { x.r.Modifier1 = modifier; return leave }, nil
	}
	app, err := r.template(f[3])
	at := r.At
	return func(x *run) verdict {
		x.r.Modifier1 = modifier
		if v := x.setNew(at, "UWSGI_APPID", app.Expand(x)); v != next {
			return v
		}
		return leave
	}, err
}

func fcgiAction(r *rl) (act, error) {
	return toAddress(r, route.ParseUpstream(r.ActionArg).Address, func(x *run, addr string) error {
		return x.h.cfg.Proxy.FastCGI(x.ctx, x.r, x, addr)
	})
}

func scgiAction(r *rl) (act, error) {
	return toAddress(r, route.ParseUpstream(r.ActionArg).Address, func(x *run, addr string) error {
		return x.h.cfg.Proxy.SCGI(x.ctx, x.r, x, addr)
	})
}
