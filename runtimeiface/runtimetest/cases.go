package runtimetest

import "slices"

// Cases gives every promise of runtimeiface as a case, in an order that is good
// for reading failures: what later ones stand on comes first.
func Cases() []Case {
	return slices.Concat(
		sandboxCases(), containerCases(), stopCases(), specCases(), togetherCases(), logCases(), execCases(),
		attachCases(), forwardCases(), imageCases(), eventCases(), cancelCases(), concurrencyCases(), restartCases(), keeperCases(),
		mountCases(), volumeCases(), processCases(), namespaceCases(), securityCases(), networkCases(),
	)
}
