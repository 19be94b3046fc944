package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"liege/vassal"
	"liege/vassal/inifile"
)

// A family is a language whose interpreter can be registered.
type family struct {
	name    string   // as in a registration
	aliases []string // of it on the command line, the first its flag
	program []string // looked for in PATH, in order
	args    []string // that make it print lines "key value", see probed
	shims   bool     // version managers put scripts of this name into PATH
}

// What each interpreter is asked. All of it is understood by the oldest
// version that Liege runs.
const (
	probeRuby = `require "rbconfig";require "rubygems"
c=RbConfig::CONFIG
puts "version #{RUBY_VERSION}","abi #{c["ruby_version"]}","prefix #{c["prefix"]}","self #{File.join(c["bindir"],c["ruby_install_name"]+c["EXEEXT"].to_s)}"
puts "gem-home #{Gem.dir}","gem-path #{Gem.path.join(":")}" if Gem.dir!=Gem.default_dir&&ENV["GEM_HOME"]
begin;gem "rack";puts "rack #{Gem.loaded_specs["rack"].version}";rescue LoadError;end`
	probePython = `import sys
v=sys.version_info
print("version %d.%d.%d"%tuple(v[:3]));print("abi cpython-%d%d"%(v[0],v[1]));print("prefix "+sys.prefix);print("self "+sys.executable)`
	probePerl = `use Config;printf "version %vd\nabi %s\nprefix %s\nself %s\n",$^V,"$Config{version}-$Config{archname}",$Config{prefix},$^X`
)

var pluginFamilies = []family{
	{"rack", []string{"ruby", "rack"}, []string{"ruby"}, []string{"-e", probeRuby}, true},
	{"python3", []string{"python", "python3"}, []string{"python3", "python"}, []string{"-c", probePython}, true},
	{"psgi", []string{"perl", "psgi"}, []string{"perl"}, []string{"-e", probePerl}, true},
	{"php", []string{"php"}, []string{"php-cgi", "php"}, []string{"-v"}, false},
}

func (a *app) pluginCmd() *cobra.Command {
	c := &cobra.Command{
		Use: "plugin", Short: "register interpreters that vassal files name by plugin = NAME",
		Args: noSuchCommand, RunE: func(cmd *cobra.Command, _ []string) error { return cmd.Help() },
	}
	c.AddCommand(a.pluginBuildCmd(), a.pluginListCmd())
	return c
}

func (a *app) pluginBuildCmd() *cobra.Command {
	var dir string
	with := map[string]*string{}
	c := &cobra.Command{
		Use: "build FAMILY NAME", Short: "check an interpreter and write its registration, NAME_plugin.ini",
		Long: `Checks the interpreter of that family (rack, python, psgi or php) that comes
first in PATH, or the one that a flag names, and writes NAME_plugin.ini. A vassal
file chooses it by "plugin = NAME"; nothing is compiled.

  PATH=/opt/ruby-2.1/bin:$PATH liege plugin build "plugins/rack rack_215"
  liege plugin build rack rack_215 --ruby /opt/ruby-2.1/bin/ruby --plugins-dir ` + inifile.RegistrationDir,
		Args: cobra.ArbitraryArgs,
		RunE: func(cmd *cobra.Command, args []string) error {
			words := strings.Fields(strings.Join(args, " ")) // uWSGI's is one word, "plugins/rack rack_215"
			if len(words) != 2 {
				return usageError("plugin build: which family, and which name?", "liege plugin build rack rack_215 --ruby /path/bin/ruby")
			}
			return a.pluginBuild(cmd.Context(), words[0], words[1], dir, with)
		},
	}
	for _, f := range pluginFamilies {
		flag := f.aliases[0]
		with[flag] = c.Flags().String(flag, "", "the "+flag+" to register")
	}
	c.Flags().StringVar(&dir, "plugins-dir", ".", "where the registration is written")
	return a.jsonFlag(c)
}

// pluginFamily finds "plugins/rack", "rack" or "ruby".
func pluginFamily(word string) (family, bool) {
	word = filepath.Base(word)
	i := slices.IndexFunc(pluginFamilies, func(f family) bool { return f.name == word || slices.Contains(f.aliases, word) })
	if i < 0 {
		return family{}, false
	}
	return pluginFamilies[i], true
}

func (a *app) pluginBuild(ctx context.Context, word, name, dir string, with map[string]*string) error {
	f, ok := pluginFamily(word)
	if !ok {
		return usageError("plugin build: "+word+": interpreters are registered for rack, python, psgi and php", "everything else is built in")
	}
	name = strings.TrimSuffix(strings.TrimSuffix(name, inifile.RegistrationSuffix), "_plugin.so")
	if strings.Trim(name, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_.-") != "" || strings.Trim(name, ".") == "" || len(name) > 100 {
		return usageError("plugin build: "+name+": not a name; want letters, digits and _ . -", "")
	}
	if inifile.RegistrationFiles(name, []string{"."}) == nil {
		return usageError("plugin build: "+name+" is the name of what is built in", "a name of its own: "+name+"_215")
	}
	for flag, value := range with {
		if *value != "" && flag != f.aliases[0] {
			return usageError(fmt.Sprintf("plugin build: --%s names no interpreter of %s", flag, f.name), "--"+f.aliases[0]+" "+*value)
		}
	}
	program, err := f.find(*with[f.aliases[0]])
	if err != nil {
		return err
	}
	g, said, err := f.ask(ctx, program)
	if err != nil {
		return err
	}
	g.Name = name
	file := filepath.Join(dir, name+inifile.RegistrationSuffix)
	if err := replace(file, g.Text()); err != nil {
		return exitWith(exitFailed, vassal.CodeUnwritable, err.Error(), "--plugins-dir DIRECTORY")
	}
	return a.registered(g, file, said)
}

// find is the interpreter, absolute.
func (f *family) find(named string) (string, error) {
	if named != "" {
		p, err := filepath.Abs(named)
		if err == nil {
			_, err = exec.LookPath(p)
		}
		if err != nil {
			return "", exitWith(exitNone, vassal.CodeNoInterpreter, err.Error(), "")
		}
		return p, nil
	}
	for _, name := range f.program {
		if p, err := exec.LookPath(name); err == nil {
			if p, err = filepath.Abs(p); err == nil {
				return p, nil
			}
		}
	}
	return "", exitWith(exitNone, vassal.CodeNoInterpreter, "no "+f.program[0]+" in PATH", "--"+f.aliases[0]+" /path/to/bin/"+f.program[0])
}

// probeTime is how long an interpreter may take to tell its version.
const probeTime = 30 * time.Second

// ask runs the interpreter and makes a registration of what it says of itself.
func (f *family) ask(ctx context.Context, program string) (inifile.Registration, map[string]string, error) {
	ctx, cancel := context.WithTimeout(ctx, probeTime)
	defer cancel()
	var out, errs bytes.Buffer
	cmd := exec.CommandContext(ctx, program, f.args...)
	cmd.Stdout, cmd.Stderr, cmd.WaitDelay = &out, &errs, time.Second
	if err := cmd.Run(); err != nil {
		last := strings.TrimSpace(errs.String())
		if i := strings.LastIndexByte(last, '\n'); i >= 0 {
			last = last[i+1:]
		}
		return inifile.Registration{}, nil, exitWith(exitFailed, vassal.CodeNoInterpreter, fmt.Sprintf("%s: %v %.300s", program, err, last), "")
	}
	said := probed(out.String())
	if f.name == "php" {
		said = probedPHP(out.String())
	}
	g := inifile.Registration{Family: f.name, Interpreter: program, Version: said["version"], ABI: said["abi"],
		Prefix: said["prefix"], GemHome: said["gem-home"], GemPath: said["gem-path"]}
	if strings.Contains(program, "/shims/") && f.shims && filepath.IsAbs(said["self"]) {
		g.Interpreter = said["self"] // a version manager's script asks it anew at each start, and needs all of it
	}
	return g, said, f.check(&g, said)
}

// probed reads lines "key value".
func probed(text string) map[string]string {
	said := map[string]string{}
	for line := range strings.Lines(text) {
		if key, value, ok := strings.Cut(strings.TrimSpace(line), " "); ok && len(value) < 4096 {
			said[key] = value
		}
	}
	return said
}

// probedPHP reads "PHP 8.2.1 (cgi-fcgi) (built: …)".
func probedPHP(text string) map[string]string {
	f := strings.Fields(text)
	if len(f) < 3 || f[0] != "PHP" {
		return map[string]string{}
	}
	return map[string]string{"version": f[1], "sapi": strings.Trim(f[2], "()")}
}

// check refuses what Liege cannot run.
func (f *family) check(g *inifile.Registration, said map[string]string) error {
	bad := func(why, hint string) error {
		return exitWith(exitFailed, vassal.CodeNoInterpreter, fmt.Sprintf("%s is %s %s: %s", g.Interpreter, f.aliases[0], g.Version, why), hint)
	}
	var major, minor, patch int
	if n, err := fmt.Sscanf(g.Version, "%d.%d.%d", &major, &minor, &patch); n < 2 {
		return exitWith(exitFailed, vassal.CodeNoInterpreter, fmt.Sprintf("%s does not say which version of %s it is: %v", g.Interpreter, f.aliases[0], err), "")
	}
	older := func(a, b, c int) bool {
		return slices.Compare([]int{major, minor, patch}, []int{a, b, c}) < 0
	}
	switch {
	case f.name == "rack" && older(1, 9, 3):
		return bad("1.9.3 or later is needed", "")
	case f.name == "python3" && older(3, 6, 0):
		return bad("3.6 or later is needed", "")
	case f.name == "psgi" && older(5, 10, 1):
		return bad("5.10.1 or later is needed", "")
	case f.name == "php" && said["sapi"] != "cgi-fcgi":
		return bad("php-cgi is needed, and this is "+said["sapi"], "apt install php-cgi; --php /usr/bin/php-cgi")
	}
	return nil
}

// replace writes a file that others see whole or not at all.
func replace(file string, text []byte) error {
	tmp, err := os.CreateTemp(filepath.Dir(file), "."+filepath.Base(file)+".*")
	if err != nil {
		return err
	}
	_, err = tmp.Write(text)
	err = errors.Join(err, tmp.Chmod(0o644), tmp.Close())
	if err == nil {
		err = os.Rename(tmp.Name(), file)
	}
	if err != nil {
		return errors.Join(err, os.Remove(tmp.Name()))
	}
	return nil
}

// registered tells what was written, and what the app will still miss.
func (a *app) registered(g inifile.Registration, file string, said map[string]string) error {
	if a.json {
		return json.NewEncoder(a.out).Encode(map[string]string{"name": g.Name, "file": file, "family": g.Family,
			"interpreter": g.Interpreter, "version": g.Version, "abi": g.ABI, "prefix": g.Prefix, "rack": said["rack"]})
	}
	what := g.Interpreter + " " + g.Version
	if v := said["rack"]; v != "" {
		what += ", rack " + v
	}
	fmt.Fprintf(a.out, "%s: %s\n%s written; in a vassal file: plugin = %s\n", g.Name, what, file, g.Name)
	if g.Family == "rack" && said["rack"] == "" {
		fmt.Fprintf(a.err, "liege: warning: %s has no gem rack\n", g.Interpreter)
		printHint(a.err, filepath.Join(filepath.Dir(g.Interpreter), "gem")+" install rack, or a Gemfile beside config.ru that names it")
	}
	return nil
}
