"""Frame profile, expectation suites and gates; the only package that may use great_expectations."""
