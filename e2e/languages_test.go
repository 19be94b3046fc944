package e2e

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"liege/internal/testenv"
	"liege/vassal"
)

// TestRubyAndPerl: an app of each language as a vassal, by the system's
// interpreter, with the libraries that its own package managers install.
func TestRubyAndPerl(t *testing.T) {
	testenv.Need(t, testenv.Root, testenv.Ruby, testenv.Plack)
	r := newRealm(t)
	r.write("ruby/config.ru", `
require 'json'
run lambda { |env| [200, {}, [[Process.uid, File.directory?('/var/lib/gems'), File.directory?('/var/lib/dpkg'), env['rack.multithread'], $0].to_json]] }
`)
	// With Bundler, and a gem that lies in the app's own directory.
	r.write("bundled/Gemfile", "source 'https://rubygems.org'\ngem 'rack'\ngem 'shop', :path => 'vendor/shop'\n")
	r.write("bundled/vendor/shop/shop.gemspec", "Gem::Specification.new { |s| s.name, s.version, s.summary, s.authors, s.files = 'shop', '1.2.3', 'a shop', ['x'], ['lib/shop.rb'] }\n")
	r.write("bundled/vendor/shop/lib/shop.rb", "module Shop; NAME = 'the bundled shop'; end\n")
	r.write("bundled/config.ru", "require 'shop'\nrun lambda { |env| [200, {}, [[Shop::NAME, Gem.loaded_specs['shop'].version, Gem.loaded_specs.key?('webrick')].join(' ')]] }\n")
	// What is deployed has been locked: the app's user may not write there.
	r.write("unlocked/Gemfile", "source 'https://rubygems.org'\ngem 'rack'\n")
	r.write("unlocked/config.ru", "run lambda { |env| [200, {}, ['ok']] }\n")
	lock := exec.Command("bundle", "lock", "--local")
	lock.Dir, lock.Env = filepath.Join(r.dir, "bundled"), []string{"PATH=/usr/bin:/bin", "HOME=" + t.TempDir()}
	if out, err := lock.CombinedOutput(); err != nil {
		t.Fatalf("bundle lock: %v\n%s", err, out)
	}
	r.write("perl/app.psgi", `
use Plack::Request;
sub { my $r = Plack::Request->new(shift); [200, [], [join ' ', $<, (-d '/etc/perl' ? 'etc' : 'none'), $r->path, $r->parameters->{a}, $0]] };
`)
	r.write("perl/broken.psgi", "use No::Such;\nsub { }\n")
	r.drop("rb", "uid = nobody\nchdir = DIR/ruby\nrack = config.ru\nrb-threads = 2\nhttp-socket = 127.0.0.1:0\n")
	r.drop("bundled", "uid = nobody\nchdir = DIR/bundled\nrack = config.ru\nhttp-socket = 127.0.0.1:0\n")
	r.drop("unlocked", "uid = nobody\nchdir = DIR/unlocked\nrack = config.ru\nhttp-socket = 127.0.0.1:0\n")
	r.drop("pl", "uid = nobody\npsgi = DIR/perl/app.psgi\nhttp-socket = 127.0.0.1:0\n")
	r.drop("bad", "uid = nobody\nchdir = DIR/perl\npsgi = broken.psgi\nhttp-socket = 127.0.0.1:0\n")
	for name, want := range map[string]string{"rb": `[65534,true,false,true,"rb worker 1"]`, "pl": "65534 etc /x 1 pl worker 1",
		"bundled": "the bundled shop 1.2.3 false"} {
		v := r.up(name)
		if len(v.Problems) > 0 {
			t.Errorf("%s has problems: %v", name, v.Problems)
		}
		if status, got := r.get(v.Listen[0], "/x?a=1"); status != 200 || got != want {
			t.Errorf("%s: %d %q, want %q", name, status, got, want)
		}
	}
	r.liege("wait", "unlocked", "backoff", "--timeout", patience)
	if p := problem(r.status("unlocked"), vassal.CodeImportError); p == nil || !strings.Contains(p.Message, "Gemfile.lock") || !strings.HasPrefix(p.Hint, "bundle lock") {
		t.Errorf("the problem is %+v", p)
	}
	r.liege("wait", "bad", "backoff", "--timeout", patience)
	p := problem(r.status("bad"), vassal.CodeImportError)
	if p == nil || !strings.Contains(p.Message, "No/Such.pm") || !strings.Contains(p.Message, "broken.psgi line 1") || p.Line != 4 || !strings.Contains(p.Hint, "apt install libno-such-perl") {
		t.Errorf("the problem is %+v", p)
	}
}
