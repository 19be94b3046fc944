package resolve

import (
	"os"
	"path/filepath"
	"strings"
	"testing"

	"liege/vassal"
	"liege/vassal/inifile"
)

// trusting is the host's files, of which all are root's.
type trusting struct {
	inifile.Host
	operator bool
}

func (h trusting) ReadFile(name string) (inifile.HostFile, error) {
	b, err := os.ReadFile(name)
	return inifile.HostFile{Data: b, Operator: h.operator}, err
}

// TestDemand: what says that a vassal sleeps, and on which socket.
func TestDemand(t *testing.T) {
	dir := t.TempDir()
	write := func(name, text string, mode os.FileMode) string {
		t.Helper()
		p := filepath.Join(dir, name)
		if err := os.WriteFile(p, []byte(text), mode); err != nil {
			t.Fatal(err)
		}
		return p
	}
	ini := write("shop.ini", "", 0o644)
	write("shop.ini.socket", "127.0.0.1:3031\nand a rest", 0o644)
	write("shop.ini.empty", "\n", 0o644)
	said := filepath.Join(dir, "said")
	program := write("ask", "#!/bin/sh\nprintf '%s\\n' \"$#\" \"$@\" > "+said+"\necho /run/$2\n", 0o755)
	fails := write("fails", "#!/bin/sh\nexit 3\n", 0o755)
	endless := write("endless", "#!/bin/sh\nexec head -c 100000 /dev/zero\n", 0o755)
	for _, tt := range []struct {
		key, value  string
		tenants, no bool // the file is a user's; programs are not run
		foreign     bool // the file beside is not root's
		want, err   string
	}{
		{key: "", want: ""},
		{key: inifile.OnDemandExtension, value: ".socket", want: "127.0.0.1:3031"},
		{key: inifile.OnDemandExtension, value: ".none", want: ""},
		{key: inifile.OnDemandExtension, value: ".empty", want: ""},
		{key: inifile.OnDemandExtension, value: ".socket", foreign: true, err: "others than root"},
		{key: inifile.OnDemandExtension, value: ".socket", foreign: true, tenants: true, want: "127.0.0.1:3031"},
		{key: inifile.OnDemandDirectory, value: "/run/sockets", want: "/run/sockets/shop.socket"},
		{key: inifile.OnDemandExec, value: program + "  one", want: "/run/shop.ini"},
		{key: inifile.OnDemandExec, value: program, no: true, want: ""},
		{key: inifile.OnDemandExec, value: fails, err: "exit status 3"},
		{key: inifile.OnDemandExec, value: endless, err: "more than"},
		{key: inifile.OnDemandExec, value: dir + "/nobody", err: "no such file"},
	} {
		s := Settings{INI: trusting{operator: !tt.foreign}, OnDemand: inifile.OnDemandSource{Key: tt.key, Value: tt.value}, Runs: !tt.no}
		got, err := s.demand(t.Context(), "shop", inifile.Source{Path: ini, Trust: vassal.Trust{Operator: !tt.tenants}})
		address := ""
		if got != nil {
			address = got.Address
		}
		if address != tt.want || (err == nil) != (tt.err == "") || err != nil && !strings.Contains(err.Error(), tt.err) {
			t.Errorf("%s = %s: %q, %v; want %q, %q", tt.key, tt.value, address, err, tt.want, tt.err)
		}
	}
	if b, err := os.ReadFile(said); err != nil || string(b) != "2\none\nshop.ini\n" {
		t.Errorf("the program was given %q (%v)", b, err)
	}
}

// TestDemandWords: a name is one word for the program, whatever is in it.
func TestDemandWords(t *testing.T) {
	out, err := askProgram(t.Context(), []string{"/usr/bin/printf", "%s", `x$(id >pwned) "; id`})
	if err != nil || string(out) != `x$(id >pwned) "; id` {
		t.Errorf("%q, %v", out, err)
	}
}
