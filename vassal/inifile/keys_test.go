package inifile

import (
	"fmt"
	"strings"
	"testing"

	"liege/vassal"
)

// TestKeys: the app sees the lines of its own file as uWSGI shows them, and
// nothing that is the operator's.
func TestKeys(t *testing.T) {
	src := Source{Path: "/etc/vassals/shop.ini", Trust: vassal.Trust{Operator: true}, Text: []byte(`[uwsgi]
uid = www-data
set-ph = ph=one
foo = bar
foo = %(foo)2
bare
processes = 2
hook-as-root = exec:/usr/sbin/mount --password=secret
route = ^/ basicauth:Area,admin:secret
alarm = mail smtp:secret
wsgi-file = /srv/app.py
http-socket = :8080
`)}
	opt := ReadOptions{
		Known: func(key string) bool { _, ok := Lookup(key); return ok },
		Set:   []Preset{{Key: "vault", Value: "secret"}, {Key: "umask", Value: "077"}},
	}
	f, ps := Read(src, nil, opt)
	if f == nil {
		t.Fatal(ps)
	}
	cfg, _ := Decode(f, Policy{})
	var got []string
	for _, k := range cfg.App.Keys {
		got = append(got, fmt.Sprintf("%s=%s", k.Name, k.Value))
	}
	want := "uid=www-data ph=one foo=bar foo=bar2 bare= processes=2 wsgi-file=/srv/app.py http-socket=:8080"
	if s := strings.Join(got, " "); s != want {
		t.Errorf("got  %s\nwant %s", s, want)
	}
	src.Text = []byte("[uwsgi]\nuid = www-data\n" + strings.Repeat("long = "+strings.Repeat("x", 1000)+"\n", 500))
	f, _ = Read(src, nil, opt)
	cfg, _ = Decode(f, Policy{})
	size := 0
	for _, k := range cfg.App.Keys {
		size += len(k.Name) + len(k.Value)
	}
	if size > maxKeys || size < maxKeys-2000 {
		t.Errorf("%d bytes of keys", size)
	}
}
