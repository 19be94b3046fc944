package lang

import "liege/vassal"

// Keys are the settings by which a program shows an application its own file:
// keys has names and values in turn, flags the names of what has no value.
func Keys(app *vassal.App) []Entry {
	keys, flags := [][]byte{}, []string{}
	for _, k := range app.Keys {
		if k.Flag {
			flags = append(flags, k.Name)
		} else {
			keys = append(keys, []byte(k.Name), []byte(k.Value))
		}
	}
	return []Entry{{Name: "keys", Value: keys}, {Name: "flags", Value: flags}}
}
