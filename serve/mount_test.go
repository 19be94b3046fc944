package serve

import (
	"context"
	"testing"

	"liege/serve/exchange"
	"liege/vassal"
)

func TestMounted(t *testing.T) {
	mounts := []vassal.Mount{{Point: "/app1"}, {Point: "/app1/in"}, {Point: ""}}
	for _, c := range []struct {
		name         string
		m            *vassal.Mounting
		script, path string
		wantS, wantP string
	}{
		{"none", nil, "/x", "/x/y", "/x", "/x/y"},
		{"not managed", &vassal.Mounting{Mounts: mounts}, "", "/app1/x", "", "/app1/x"},
		{"managed", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "/app1/x", "/app1", "/x"},
		{"itself", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "/app1", "/app1", ""},
		{"slashes", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "//app1//x//y", "/app1", "//x//y"},
		{"a way round", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "/x/../app1/./y", "/app1", "/y"},
		{"longest", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "/app1/in/x", "/app1/in", "/x"},
		{"segment", &vassal.Mounting{Mounts: mounts, Manage: true}, "", "/app10", "", "/app10"},
		{"sent by the front end, path whole", &vassal.Mounting{Mounts: mounts, Manage: true}, "/app1", "/app1/x", "/app1", "/x"},
		{"sent by the front end, path cut", &vassal.Mounting{Mounts: mounts, Manage: true}, "/app1", "/x", "/app1", "/x"},
		{"ignored", &vassal.Mounting{Mounts: mounts, Ignore: true}, "/app1", "/x", "", "/x"},
		{"ignored and managed", &vassal.Mounting{Mounts: mounts, Ignore: true, Manage: true}, "/zz", "/app1/x", "/app1", "/x"},
	} {
		r := &exchange.Request{Vars: []exchange.Var{{Name: "SCRIPT_NAME", Value: c.script}, {Name: "PATH_INFO", Value: c.path}}}
		h := mounted(c.m, exchange.HandlerFunc(func(_ context.Context, r *exchange.Request, _ exchange.Response) error {
			if s, p := r.Get("SCRIPT_NAME"), r.Get("PATH_INFO"); s != c.wantS || p != c.wantP {
				t.Errorf("%s: got %q %q, want %q %q", c.name, s, p, c.wantS, c.wantP)
			}
			return nil
		}))
		if err := h.Serve(t.Context(), r, nil); err != nil {
			t.Error(err)
		}
	}
}
