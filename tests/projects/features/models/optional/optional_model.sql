select {{ env_var('DBT_FEATURES_NUMBER', '7') }} as number from {{ ref('stg_orders') }} limit 1
