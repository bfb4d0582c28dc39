// Package kernel is what the packages that write rules share.
package kernel

// ValidTable tells whether a name is fit for an nftables table: 1 to 64 letters,
// digits, '-' and '_' that start with a letter.
func ValidTable(name string) bool {
	for i, r := range name {
		letter := r >= 'a' && r <= 'z' || r >= 'A' && r <= 'Z'
		if !letter && (i == 0 || (r < '0' || r > '9') && r != '-' && r != '_') {
			return false
		}
	}
	return len(name) >= 1 && len(name) <= 64
}
